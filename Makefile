# Everything a newcomer types. PYTHON is any Python from 3.11 on.
PYTHON ?= python3
BIN := .venv/bin
# TORCH picks another build, for example TORCH=torch==2.11.0 on a machine with CUDA 13.
TORCH ?= torch==2.13.0

.PHONY: demo test prove check docs lock clean

demo: .venv/installed
	$(BIN)/danlu run recipes/tiny.yaml

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not prove" tests

prove: .venv/installed-prove
	$(BIN)/python -m pytest -m prove tests

check: .venv/installed-dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

docs: .venv/installed-dev
	$(BIN)/pip install --quiet -c requirements.lock -e ".[docs]"
	$(BIN)/mkdocs build --strict

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "danlu needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml requirements.lock
	$(BIN)/pip install --quiet -c requirements.lock $(TORCH)
	$(BIN)/pip install --quiet -c requirements.lock -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet -c requirements.lock -e ".[dev]"
	touch $@

# llama.cpp is compiled here, which takes some minutes.
.venv/installed-prove: .venv/installed-dev
	$(BIN)/pip install --quiet -c requirements.lock -e ".[llama-cpp]"
	touch $@

lock: .venv/installed-dev
	(sed -n 1p requirements.lock; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//') > .lock && mv .lock requirements.lock

clean:
	rm -rf .venv site
