# Everything happens in a private .venv: nothing but python3 and make is needed.
PYTHON ?= python3
BIN := .venv/bin
PROTOS := $(shell find proto -name '*.proto')

.PHONY: help setup gen up demo servers test bench check lint types protos imports lock clean

help: ## Show this list.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: .venv/.ready ## Make .venv, install what is pinned, generate gen/.

.venv/.ready: requirements.lock pyproject.toml hatch_build.py $(PROTOS)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

gen: .venv/.ready ## Generate gen/ anew.
	$(BIN)/python hatch_build.py

up: .venv/.ready ## Run Hither on http://127.0.0.1:8080.
	$(BIN)/hither up

demo: .venv/.ready ## Play a story with real clients; ENGINES=distributed: on etcd, Kafka, Cassandra, PostgreSQL, Redis.
	$(if $(filter distributed,$(ENGINES)),$(BIN)/python -m tests.support.servers )$(BIN)/python -m demo.story$(if \
		$(filter distributed,$(ENGINES)), --apart)

servers: .venv/.ready ## Run the servers of a cluster on loopback; prints the settings to use.
	@$(BIN)/python -m tests.support.servers

test: .venv/.ready ## Run all tests.
	$(BIN)/python -m pytest

bench: .venv/.ready ## Measure; writes bench/results/.
	$(BIN)/python -m bench
	$(BIN)/python -m bench.ring

check: lint types protos imports ## All that needs no running code.

lint: .venv/.ready ## Formatting and lint.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/.ready ## mypy --strict.
	$(BIN)/mypy

protos: .venv/.ready ## buf format, lint and breaking.
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf lint
	sh .ci/breaking

imports: .venv/.ready ## The import rules of the rooms.
	$(BIN)/lint-imports

lock: ## Pin every dependency with its hashes in requirements.lock.
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --extra dev --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links --no-header --output-file requirements.lock pyproject.toml

clean: ## Remove what the build made.
	rm -rf .venv gen dist build
