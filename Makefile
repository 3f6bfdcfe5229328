# The README's commands under short names. PYTHON is the interpreter of the environment to use.
PYTHON ?= .venv/bin/python

.PHONY: setup train test lint

setup:
	python3 -m venv .venv
	.venv/bin/pip install -e ".[test,lint]"

train:
	$(PYTHON) -m twostroke train

test:
	$(PYTHON) -m pytest

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
