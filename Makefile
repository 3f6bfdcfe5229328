# The README's commands under short names. PYTHON is the interpreter of the environment to use.
PYTHON ?= .venv/bin/python
UV ?= .venv/bin/uv

.PHONY: setup train test gpu-emulated lint docs figures wheel lock images

setup:
	python3 -m venv .venv
	.venv/bin/pip install -e ".[test,lint]"

train:
	$(PYTHON) -m twostroke train

test:
	$(PYTHON) -m pytest

# The GPU's tests without a GPU, on an emulated one (tests/emulated_gpu/README.md). Needs, in the environment:
# pip install -r tests/emulated_gpu/requirements.txt pytest-xdist
EMULATED = $(PYTHON) -m tests.emulated_gpu $(PYTHON)

gpu-emulated:
	$(PYTHON) -m pytest -q -p no:cacheprovider -n 2 tests/emulated_gpu
	$(EMULATED) -m pytest -q -p no:cacheprovider -n 2 -m gpu --require-gpu
	$(EMULATED) -m twostroke doctor
	$(EMULATED) -m twostroke verify grad --device cuda
	$(EMULATED) -m twostroke verify parity --device cuda
	$(EMULATED) -m twostroke verify resume --device cuda

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
