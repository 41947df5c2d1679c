# One verb each; `make test` and `.ci/run` are what continuous integration runs.
# Everything lands in .venv; nothing is installed outside it, except Debian packages by `make test` as root.

BIN := .venv/bin
ARGS ?=
# Three on two cores: many tests wait for what they started.
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help setup setup-run debian labs run demo test test-labs bench lint format docs reference examples images clean

help: ## show these verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: ## make .venv with everything a developer needs (quick when nothing changed)
	@scripts/setup dev

setup-run:
	@scripts/setup all

debian:
	@scripts/debian-packages

run: setup-run ## start gridcloud and print the login link (= gridcloud up)
	@$(BIN)/gridcloud up $(ARGS)

demo: setup-run ## the aluminium-foam example from end to end (= gridcloud demo)
	@$(BIN)/gridcloud demo $(ARGS)

labs: setup debian
	@$(BIN)/python -m tests.labs

test: setup debian labs ## all tests but the labs, docs included
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-labs: setup ## the heavy scenes on real parts (builds what they need the first time)
	@scripts/debian-packages labs
	@$(BIN)/python -m tests.labs all
	@$(BIN)/pytest -m lab $(ARGS)

images: setup-run ## build the images of sessions (= gridcloud image build); one: ARGS=base
	@$(BIN)/gridcloud image build $(ARGS)

bench: setup debian ## the benchmarks, each beside its peer
	@$(BIN)/python -m benchmarks $(ARGS)

lint: setup ## ruff, its formatter, and strict types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## what `make lint` can mend by itself
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: setup ## run every code block of the documentation and compare the generated reference
	@$(BIN)/pytest tests/docs $(ARGS)

reference: setup ## write docs/reference anew from the code
	@$(BIN)/python scripts/reference.py

examples: setup ## run the examples by themselves, without a hub
	@scripts/examples

clean: ## remove what was built, .venv included
	@rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
