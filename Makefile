# Every target first builds .venv with plain pip, once; it is renewed when pyproject.toml changes.
# Interpreters are tried in this order; `make test PYTHON=python3.12` names another one.
PYTHON = python3.11 python3.12 python3.10 python3.13 python3.14 python3
SEEDS = 1
KILLS = 120
VENV = .venv
XLA = .venv-xla
TPU = .venv-tpu
DOORS = .venv-doors
RUN = $(VENV)/bin/python
READY = $(VENV)/.stamp
CHROMIUM = $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
BY_FILE = -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder  # a process a core, a file in one of them
SUITABLE = import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))
MISSING = No Python 3.10 or newer with venv and pip was found (tried: $(PYTHON)): install one, on Debian or \
Ubuntu with "apt install python3-venv", or name it with "make PYTHON=...".

.PHONY: help demo claims test quick test-xla test-tpu test-doors test-detection lab data bench torture book
.PHONY: test-browser lint unit-tests notebooks-test clean
unexport MPLBACKEND  # notebooks draw inline

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /make \1: /p' Makefile

demo: $(READY)  ## the main job on the embedded data into runs/demo; SEEDS=3 adds the table of three seeds
	$(RUN) notebooks/demo.py --seeds $(SEEDS) --out runs/demo

claims: $(READY)  ## runs of the claims that are missing, hours: ONLY=3, SEEDS=5, DATA=digits, PART="1 2" of two
	OMP_NUM_THREADS=1 $(RUN) notebooks/claims.py $(if $(ONLY),--only $(ONLY)) $(if $(DATA),--data $(DATA)) \
	  $(if $(filter command line,$(origin SEEDS)),--seeds $(SEEDS)) $(if $(PART),--part $(PART))

test: lint unit-tests notebooks-test  ## lint, unit tests, then every notebook with quick parameters

quick: $(READY)  ## the core and the loop alone, within a minute
	OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(RUN) -m pytest -q $(BY_FILE) tests/core

test-xla: $(XLA)/.stamp  ## one process against four XLA devices; needs Linux on x86-64, 7 GB more
	TQDM_DISABLE=1 $(XLA)/bin/python -m pytest -p no:cacheprovider tests/parallel/test_xla.py

test-tpu: $(TPU)/.stamp  ## device="tpu" as far as no chip is needed; Linux on x86-64, Python 3.11 or later, 6 GB more
	NO_SKIPS=1 TQDM_DISABLE=1 $(TPU)/bin/python -m pytest -p no:cacheprovider tests/parallel/test_tpu.py

test-doors: $(DOORS)/.stamp  ## checkpoints in and encoders out, beside the libraries that write and read them
	NO_SKIPS=1 OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(DOORS)/bin/python -m pytest -rs -p no:cacheprovider tests/doors

test-detection: $(DOORS)/.stamp  ## boxes found in drawn images, by three encoders that learn and three that do not
	OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(DOORS)/bin/python -m pytest -s -p no:cacheprovider tests/doors/detection.py

lab: $(READY)  ## JupyterLab at the first notebook, in copies of your own (notebooks/my_*); LAB=... adds options
	$(RUN) notebooks/lab.py $(LAB)

data: $(READY)  ## pack CIFAR-10: from FROM=folder-of-class-folders (or tars), or downloaded
	$(RUN) data/prepare.py $(if $(FROM),folder --from "$(FROM)" --name cifar10,cifar10)

bench: $(VENV)/.stamp-bench  ## the benchmark tables
	$(RUN) benchmarks/run.py

torture: $(READY)  ## kill real trainings at random moments, KILLS=120 of them, and compare their ends
	$(RUN) tests/helpers/torture.py --kills $(KILLS)
	$(RUN) tests/helpers/torture.py --kills 20 --workers 2
	$(RUN) tests/helpers/torture.py --kills 20 --workers 2 --files

book: $(VENV)/.stamp-book  ## the notebooks and pages as a site, build/book/index.html; runs no cell
	OMP_NUM_THREADS=1 $(RUN) -m sphinx -q -W --keep-going -c docs/book . build/book

test-browser:  ## the book and, in JupyterLab, notebooks 00 and 01, in the Chromium that is installed
	@test -n "$(CHROMIUM)" || { echo "No Chromium on PATH (tried: chromium, chromium-browser, google-chrome): install \
	one, on Debian with \"apt install chromium\"." >&2; exit 2; }
	$(MAKE) book $(VENV)/.stamp-browser
	OMP_NUM_THREADS=1 CHROMIUM="$(CHROMIUM)" $(RUN) -m pytest -q tests/browser/book.py tests/browser/lab.py

lint: $(READY)
	$(RUN) -m ruff check .

unit-tests: $(READY)
	OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(RUN) -m pytest $(BY_FILE) tests

notebooks-test: $(READY)  ## every notebook with quick parameters
	$(RUN) tests/helpers/prepare_notebooks.py
	OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(RUN) -m pytest $(BY_FILE) --nbval-lax --nbval-current-env --nbval-cell-timeout=300 .notebooks-quick

clean:  ## remove caches and quick copies; runs, data packs and .venv stay
	rm -rf .notebooks-quick .pytest_cache .ruff_cache build dist *.egg-info
	find . -path './.venv*' -prune -o -name __pycache__ -prune -exec rm -rf {} +

define environment
	@$(1)/bin/python -m pip --version >/dev/null 2>&1 || { \
	  for python in $(PYTHON) ""; do "$$python" -c '$(SUITABLE)' >/dev/null 2>&1 && break; done; \
	  test -n "$$python" || { echo '$(MISSING)' >&2; exit 1; }; \
	  echo "Building $(1) with $$python: on Linux this fetches several GB once."; \
	  "$$python" -m venv --clear $(1); }
	$(1)/bin/python -m pip install --upgrade pip
endef

$(READY): pyproject.toml
	$(call environment,$(VENV))
	$(RUN) -m pip install -e '.[test]'
	@touch $@

$(XLA)/.stamp: scale/requirements-xla.txt
	@test "$$(uname -sm)" = "Linux x86_64" || { \
	  echo "torch_xla has wheels for Linux on x86-64 only, this is $$(uname -sm): use scale/train.py." >&2; exit 1; }
	$(call environment,$(XLA))
	$(XLA)/bin/python -m pip install -r scale/requirements-xla.txt -e .
	@touch $@

$(TPU)/.stamp: scale/requirements-tpu.txt
	$(call environment,$(TPU))
	$(TPU)/bin/python -m pip install -r scale/requirements-tpu.txt -e .
	@touch $@

$(DOORS)/.stamp: pyproject.toml
	$(call environment,$(DOORS))
	$(DOORS)/bin/python -m pip install -e '.[test,doors]'
	@touch $@

$(VENV)/.stamp-bench: $(READY)
	$(RUN) -m pip install -e '.[test,benchmarks]'
	@touch $@

$(VENV)/.stamp-book: $(READY)
	$(RUN) -m pip install -e '.[test,book]'
	@touch $@

$(VENV)/.stamp-browser: $(VENV)/.stamp-book
	$(RUN) -m pip install -e '.[browser]'
	@touch $@
