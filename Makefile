# The commands of README and CONTRIBUTING under short names. Every target first installs what it needs into $(VENV).
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: setup train quick test gpu-emulated lint site figures wheel sanitize lock images

# For `make lint` too: mypy reads the types of what `plot` brings.
setup: $(VENV)/with-test $(VENV)/with-lint $(VENV)/with-plot

train: $(VENV)/installed
	$(VENV)/bin/twostroke train

# Two workers; all tests of a file run in one of them.
PYTEST = $(RUN) -m pytest -n 2 --dist loadfile

# What a change of the maths or of the seam breaks first.
quick: $(VENV)/with-test
	$(PYTEST) tests/engine tests/files tests/test_floors.py tests/backend/test_backend.py tests/backend/test_replay.py

# The GPU's tests without a GPU, on an emulated one (tests/emulated_gpu/README.md): some 2.5 GB of wheels.
EMULATED = $(RUN) -m tests.emulated_gpu $(RUN)

gpu-emulated: $(VENV)/with-test $(VENV)/with-emulated-gpu
	$(PYTEST) -q -p no:cacheprovider tests/emulated_gpu
	$(EMULATED) -m pytest -q -p no:cacheprovider -n 2 -m gpu --require-gpu
	$(EMULATED) -m twostroke doctor
	$(EMULATED) -m twostroke verify grad --device cuda
	$(EMULATED) -m twostroke verify parity --device cuda
	$(EMULATED) -m twostroke verify resume --device cuda

test: $(VENV)/with-test
	$(PYTEST)

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# The site, into build/site. A broken link, or a page that is not in the navigation, is an error.
site: $(VENV)/with-docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

# The tutorial's pictures, into docs/images.
figures: $(VENV)/with-docs
	$(RUN) docs/figures.py

# Into dist/.
wheel: $(VENV)/installed
	$(RUN) -m pip wheel --no-deps --wheel-dir dist .

# The C library under the sanitizers of the C compiler.
sanitize: $(VENV)/installed
	$(RUN) tests/backend/sanitize.py

# The images' locks, renewed: the newest versions that pyproject.toml admits, for every Python from 3.11 on.
LOCK = $(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --system-certs \
	--custom-compile-command "A lock with hashes, made by: make lock"

lock: $(VENV)/bin/uv
	$(LOCK) docker/requirements-build.in -o docker/requirements-build.txt
	$(LOCK) pyproject.toml -o docker/requirements-cpu.txt
	$(LOCK) pyproject.toml --extra cuda12 -o docker/requirements-cuda.txt
	$(LOCK) pyproject.toml --extra test -o docker/requirements-test.txt

# The images, built and run; needs a container engine.
images:
	docker/check.sh --level=3

# --- what the targets need: an environment with the package, an extra of pyproject.toml, a tool ---------------------

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -e .
	touch $@

$(VENV)/with-%: $(VENV)/installed
	$(RUN) -m pip install -e ".[$*]"
	touch $@

$(VENV)/with-emulated-gpu: tests/emulated_gpu/requirements.txt $(VENV)/installed
	$(RUN) -m pip install -r tests/emulated_gpu/requirements.txt
	touch $@

$(VENV)/bin/uv: $(VENV)/installed
	$(RUN) -m pip install uv
	touch $@
