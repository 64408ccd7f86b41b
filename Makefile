# Needs python3.11, git and make; everything else goes into .venv.
PYTHON ?= python3.11
BIN := .venv/bin
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
EXTRAS := cpu,minilm,demo,fast,feeds,otel,parquet,peft,postgres,rdf,redact,rules,onnx,mlflow,vision,speech,test,dev

.PHONY: help .venv demo test crash check bench clean

help: ## list the targets
	@grep -hE '^[a-z.]+:.*## ' Makefile | sed 's/:.*## /\t/'

.venv: .venv/.installed ## adaptd, its extras and the shipped plugins, editable

.venv/.installed: pyproject.toml constraints.txt $(PLUGINS:%=%/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt -e ".[$(EXTRAS)]" $(PLUGINS:%=-e ./%)
	@touch $@

demo: .venv ## the whole loop on real input, in five minutes
	$(BIN)/adaptd demo

test: .venv ## every test, the crash campaign apart
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore=tests/crash $(ARGS)

crash: .venv ## kills, power cuts and a failing machine, against real daemons; CRASH_KILLS=5000 CRASH_CUTS=500 for longer
	$(BIN)/python -m pytest -n 2 --dist worksteal -m crash -rP tests/crash $(ARGS)

check: .venv ## style, types, layers, spelling
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

bench: .venv ## the figures of docs/benchmarks.md
	$(BIN)/adaptd bench

clean: ## all that can be made again, .venv apart
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis demo-report bench-results
