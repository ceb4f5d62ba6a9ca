# Everything happens in .venv, which is made here from Python 3.11 or newer; a second call finds it ready.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test ready lint collected wheel machine emulators schemas bench api docs

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
# Tests start many interpreters: modules that one has compiled are loaded by the next.
unexport PYTHONDONTWRITEBYTECODE
# pip would compile every module of every package, most of which nothing imports: the first import of a module compiles it.
INSTALL := install -q --no-compile

PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$python; break; }; done)
BIN := .venv/bin
WHEEL := build/venv/bin

demo: .venv/demo.stamp
	$(BIN)/fsd demo

# tests/conftest.py orders the files. One thread for linear algebra: several tests run at a time, and waiting threads would spin.
test: ready
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 6 --dist loadfile --no-loadscope-reorder

# At a time, since what is installed comes over the network for the most part.
ready:
	@$(MAKE) --no-print-directory -j 4 --output-sync=target lint collected wheel machine emulators schemas

lint: .venv/all.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Every test's file can be imported; and the workers of pytest, which all import all of them, find them compiled.
collected: .venv/all.stamp
	$(BIN)/python -m pytest --collect-only -q >.venv/collected.log || { cat .venv/collected.log; exit 1; }

# The wheel is tested as users get it: installed with the dependencies that it declares, in an empty folder.
wheel: .venv/all.stamp build/venv.stamp
	rm -rf build/lib* build/temp* build/bdist.* build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel . >build/wheel.log 2>&1 || { cat build/wheel.log; exit 1; }
	$(WHEEL)/pip $(INSTALL) --no-deps --force-reinstall build/wheel/*.whl
	$(WHEEL)/pip $(INSTALL) "$$(echo build/wheel/*.whl)[$(EXTRAS)]"
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && cd "$$folder" && "$(CURDIR)/$(WHEEL)/python" -P "$(CURDIR)/tests/wheel_smoke.py"
	$(WHEEL)/pip $(INSTALL) ./examples/fsd_redis
	$(WHEEL)/fsd doctor --json | grep -q fsd_redis.RedisProvider

# A machine of continuous integration gets the browser that looks at the pages, and Redis; elsewhere those tests say how to get them.
machine:
	@if [ "$${CI:-}" = true ] && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		want=; \
		command -v chromedriver >/dev/null || want="chromium chromium-driver"; \
		command -v redis-server >/dev/null || want="$$want redis-server"; \
		[ -z "$$want" ] || { apt-get update -qq && apt-get install -qq -y --no-install-recommends $$want; } >/dev/null 2>&1 || echo "no $$want"; \
	fi

# What emulators need is got before any test's time runs: installing them may take minutes.
emulators: .venv/all.stamp
	$(BIN)/python -m fsd_conformance.emulators

# What vendors publish of their APIs, which requests and our stand-ins are held against: 25 MB of packages, read and never installed.
schemas: .venv/all.stamp
	PYTHONPATH=tests $(BIN)/python -m schemas.wheels

# make bench DATA=FOLDER: with the Graph Challenge's files; what needs them is skipped without.
bench: .venv/all.stamp
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/results.py $(if $(DATA),--data "$(DATA)")
	$(BIN)/python benchmarks/exchange.py
	$(BIN)/python benchmarks/services.py
	$(BIN)/python benchmarks/forged.py
	$(BIN)/python benchmarks/service_bus.py --small
	$(BIN)/python benchmarks/end_to_end.py $(if $(DATA),--data "$(DATA)")
	$(BIN)/python benchmarks/truth.py $(if $(DATA),--data "$(DATA)")

# The page of the Python API, from its signatures and docstrings.
api: .venv/all.stamp
	$(BIN)/python docs/api.py

# The table of the suite's cases by provider and emulator: runs them all.
docs: .venv/all.stamp api
	$(BIN)/python docs/conformance.py

# An editable installation builds the compiled kernel in place; without a compiler, numpy computes.
KERNEL := setup.py $(wildcard fsd_core/kernel/*.[ch])

.venv/demo.stamp: pyproject.toml $(KERNEL) | $(BIN)/python
	$(BIN)/pip $(INSTALL) -e '.[demo,partition]'
	touch $@

# The tests have what functions have: the pins of the handlers, but of the two that have other wheels for other Pythons.
.venv/all.stamp: pyproject.toml $(KERNEL) $(wildcard handlers/*/requirements.txt) | $(BIN)/python
	grep -hvE '^(#|numpy=|zstandard=)' handlers/*/requirements.txt | sort -u >.venv/pins.txt
	$(BIN)/pip $(INSTALL) -e '.[all]' -c .venv/pins.txt
	touch .venv/demo.stamp $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer is found: install one, or say make PYTHON=..." >&2; exit 1; }
	"$(PYTHON)" -m venv .venv

# The wheel's dependencies are installed at the same time as .venv, from the list that the wheel declares too: one processor would idle.
EXTRAS := aws,gcp,azure,onnx,report,demo,emulators
DECLARED := import sys, tomllib; project = tomllib.load(sys.stdin.buffer)["project"]; \
	extras = [project["optional-dependencies"][name] for name in "$(EXTRAS)".split(",")]; \
	print("\n".join(sum(extras, project["dependencies"])))

build/venv.stamp: pyproject.toml
	rm -rf build/venv
	"$(PYTHON)" -m venv build/venv
	"$(PYTHON)" -c '$(DECLARED)' <pyproject.toml >build/venv/declared.txt
	$(WHEEL)/pip $(INSTALL) -r build/venv/declared.txt
	touch $@
