# Every target sets itself up: a machine needs only python3 (3.11 or newer), pip and make.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
LOWEST := .venv-lowest
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
PICTURES ?= stamps
BENCHMARKS := fetch.py scenes.py prep_memory.py "prep.py $(PICTURES)" "loader.py $(PICTURES)" \
	"near_duplicates.py $(PICTURES)" dvae_step.py dvae_collapse.py "dvae_claims.py $(PICTURES)" \
	dvae_baseline.py doctor.py busy.py ranks.py transformer_speed.py transformer_learning.py serve.py

.PHONY: help setup demo baby test test-fast test-lowest lint format bench soak sizes

help: ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# uv resolves and unpacks torch several times faster than pip; pip only has to bring uv
$(VENV)/.ready: pyproject.toml dallebaby_cli/__init__.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]'
	@touch $@

setup: $(VENV)/.ready ## make .venv with everything in it

demo: setup ## from nothing to pictures on the embedded dataset, about 12 minutes on 2 cores
	$(BIN)/dallebaby demo

baby: setup ## train the model inside the package: 2 hours on 2 cores, goes on where it was
	$(BIN)/python benchmarks/baby.py

test: setup ## every test that needs no GPU, slow ones too
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: setup ## the tests that end in under 2 minutes
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-lowest: setup ## test-fast with the oldest libraries that pyproject.toml allows
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		-r pyproject.toml --extra dev
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps --editable .
	$(LOWEST)/bin/python -m pytest $(PARALLEL) -m "not slow"

lint: setup ## ruff and mypy, which also knows what other systems lack, and how benchmarks call
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin
	MYPYPATH=benchmarks $(BIN)/mypy --config-file= --cache-dir .mypy_cache/benchmarks --check-untyped-defs \
		--ignore-missing-imports --follow-imports silent benchmarks/*.py

format: setup ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup $(PICTURES) ## published figures again that need no other pictures, on PICTURES=FOLDER (Debian's stamps); takes hours
	@for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python benchmarks/$$script || exit 1; done

stamps:
	apt-get download tuxpaint-stamps-default
	dpkg -x tuxpaint-stamps-default_*.deb stamps

soak: setup ## long kill-and-resume runs, 20 minutes of each fuzz test, prep's memory; kept out of CI
	SOAK=1 $(BIN)/python -m pytest -k "kill or swarm or sealing"
	FUZZ_MINUTES=20 $(BIN)/python -m pytest -rP --timeout 0 -k fuzz
	$(BIN)/python benchmarks/prep_memory.py

sizes: ## lines per file, the longest first
	@git ls-files '*.py' | xargs wc -l | sort -rn
