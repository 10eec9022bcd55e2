# Each target first builds the locked environment in .venv with uv, and installs uv if it is missing.
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null || echo $(CURDIR)/.tools/bin/uv)
BIN := .venv/bin
COMPILE := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --quiet \
	--custom-compile-command "make lock"
export UV_PYTHON_DOWNLOADS := never
export UV_NO_PROGRESS := 1
# The tests start over a hundred Python processes. Without cached bytecode each takes twice as long to import.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test lint fix bench drills fuzz screenshots lock

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 18

demo: .venv/ready ## run the demo: real store, real Envoy, two replicas (ARGS=--once exits after the output)
	@$(BIN)/ratelimitd demo $(ARGS)

test: .venv/ready ## run every test that needs no Docker, one worker per core (ARGS are pytest's)
	@$(BIN)/pytest --numprocesses auto --dist loadgroup $(ARGS)

lint: .venv/ready ## check style, types and import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fix: .venv/ready ## format the code and apply the automatic fixes of ruff
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: .venv/ready ## measure the cost of a decision, see bench/README.md (ARGS=--quick takes half a minute)
	@$(BIN)/python -m bench $(ARGS)

drills: .venv/ready ## cause faults under load and show what clients notice, see drills/README.md (ARGS=--list names them)
	@$(BIN)/python -m drills $(ARGS)

fuzz: .venv/ready ## send 1,000,000 mutated messages to each transport and watch a user (ARGS=--help lists options)
	@$(BIN)/python -m fuzz $(ARGS)

screenshots: .venv/ready ## take the screenshots of the panel for README.md and docs/ (needs chromium)
	@$(BIN)/python docs/images/make_screenshots.py

lock: $(UV) ## update the locked requirements of the package and of backend/
	@$(UV) pip compile $(COMPILE) pyproject.toml --extra admin --extra fast --extra otel -o requirements/runtime.txt
	@$(UV) pip compile $(COMPILE) --group build -o requirements/build.txt
	@$(UV) pip compile $(COMPILE) pyproject.toml --extra admin --extra demo --extra fast --extra otel --group dev -o requirements/dev.txt
	@$(UV) pip compile $(COMPILE) backend/requirements.in -o backend/requirements.txt

.venv/ready: requirements/dev.txt pyproject.toml $(UV)
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	@$(UV) pip sync --quiet --require-hashes --python .venv requirements/dev.txt
	@$(UV) pip install --quiet --no-deps --no-build-isolation --python .venv --editable .
	@touch $@

$(CURDIR)/.tools/bin/uv:
	@echo "uv is missing: fetching it into .tools"
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --target .tools uv
