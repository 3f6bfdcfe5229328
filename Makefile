# The README's commands under short names. PYTHON is the interpreter of the environment to use.
PYTHON ?= .venv/bin/python
UV ?= .venv/bin/uv

.PHONY: setup train test lint docs figures wheel sanitize lock images

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

# The API reference, into build/docs; the tutorial's pictures, into docs/images. Both need: pip install -e ".[docs]"
docs:
	$(PYTHON) docs/reference.py

figures:
	$(PYTHON) docs/figures.py

wheel:
	$(PYTHON) -m build --wheel

# The C library under the sanitizers of the C compiler.
sanitize:
	$(PYTHON) tests/backend/sanitize.py

# The images' locks, renewed: the newest versions that pyproject.toml admits, for every Python from 3.11 on.
LOCK = $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links \
	--custom-compile-command "A lock with hashes, made by: make lock"

lock:
	$(LOCK) docker/requirements-build.in -o docker/requirements-build.txt
	$(LOCK) pyproject.toml -o docker/requirements-cpu.txt
	$(LOCK) pyproject.toml --extra cuda12 -o docker/requirements-cuda.txt
	$(LOCK) pyproject.toml --extra test -o docker/requirements-test.txt

images:
	docker/check.sh --level=3
