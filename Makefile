# One way to do each thing. `make demo` and `make test` need Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
KEEP ?=
PYTEST_ARGS ?=
TWIN_ARGS ?=
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?=
REGRESS_ARGS ?=

.PHONY: help demo test lint check twin bench soak fuzz regress compatibility fmt clean

help:
	@echo "make demo         a bank behind pgveil, as a story (KEEP=1 leaves it running)"
	@echo "make test         lint, types, import contracts, tests"
	@echo "make lint         ruff, mypy --strict, import-linter"
	@echo "make twin         statements on twins: plain, masked, and sealed behind pgveil"
	@echo "make bench        ratios to direct PostgreSQL and PgBouncer; writes bench/results/"
	@echo "make soak         the long tests"
	@echo "make compatibility  every driver against every check; writes docs/compatibility.md"
	@echo "make fuzz         every parser of outside bytes under a fuzzer (FUZZ_SECONDS=60 each; FUZZ_TARGETS for some of them)"
	@echo "make regress      PostgreSQL's own regression suite, directly and through pgveil (REGRESS_ARGS for some files)"

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.fuzz: $(VENV)/.dev
	$(BIN)/pip install --quiet --editable '.[fuzz]'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/pgveil demo $(if $(KEEP),--keep)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(PYTEST_ARGS)

twin: $(VENV)/.dev
	$(BIN)/python -m tests.twin.run $(TWIN_ARGS)

bench: $(VENV)/.dev
	$(BIN)/python -m bench.run

soak: $(VENV)/.dev
	$(BIN)/python -m pytest -m soak -rP --timeout 3600 $(PYTEST_ARGS)

fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.fuzz.run --seconds $(FUZZ_SECONDS) $(FUZZ_TARGETS)

regress: $(VENV)/.dev
	$(BIN)/python -m tests.regress.run $(REGRESS_ARGS)

compatibility: $(VENV)/.dev
	$(BIN)/python -m tests.drivers.table

fmt: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .import_linter_cache .demo .fuzz .regress
