# Everything is one command; the first one sets the machine up. Needs Python 3.11-3.13, gcc, git and make.
# In a folder of your own, with your experiments/ and your runs/, a Makefile of one line does the same:
#   include /path/to/lightning_seg/Makefile
HERE := $(dir $(lastword $(MAKEFILE_LIST)))
PYTHON ?= python3
NAME ?= quickstart
ARGS ?=
LAUNCHER ?= here
BIN := $(HERE).venv/bin
KEPT := MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=1073741824# glibc keeps freed memory: 6 % less work in tests
READY := $(if $(shell test -L $(HERE).venv && echo linked),,$(HERE).venv/ready)# a linked .venv is set up where it lies

.DEFAULT_GOAL := help
.PHONY: help setup exp resume ablation compare test bench lint docs audit lock clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'
	@echo '  for example: make exp NAME=deeplab_camvid ARGS="--data.init_args.root=/data/CamVid --trainer.max_epochs=5"'

setup: $(READY) ## create .venv with the pinned dependencies (exp and test do this by themselves)

$(HERE).venv/ready: $(HERE)requirements.lock $(HERE)pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(f"Python 3.11 to 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}; try: make setup PYTHON=python3.12" if not (3, 11) <= v <= (3, 13) else 0)'
	$(PYTHON) -m venv $(HERE).venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r $(HERE)requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable $(HERE)
	@touch $@

exp: $(READY) ## train and test experiments/NAME.yaml (default: quickstart); ARGS="--key=value ..." overrides, LAUNCHER=slurm submits
	@$(BIN)/lightning-seg exp $(NAME) --launcher $(LAUNCHER) $(ARGS)

resume: $(READY) ## continue a run: make resume RUN=runs/NAME/ID
	@$(BIN)/lightning-seg resume $(RUN) $(ARGS)

ablation: $(READY) ## make the missing runs of experiments/ablations/NAME.yaml, then answer it; ARGS="--plan" shows them
	@$(BIN)/lightning-seg ablation $(NAME) --launcher $(LAUNCHER) $(ARGS)

compare: $(READY) ## rank all runs and write runs/compare.html; ARGS="--group-by lr --baseline NAME" ...
	@$(BIN)/lightning-seg compare --html runs/compare.html $(ARGS)

test: $(READY) ## run the test suite; ARGS="-k name" selects
	@cd $(HERE) && $(KEPT) .venv/bin/python -m pytest -n 3 --dist worksteal $(ARGS)

bench: $(READY) ## compare speed with bare loops and other libraries, shortly; fails on a loss
	@$(BIN)/lightning-seg bench guard

lint: $(READY) ## check style, types, and that the dependencies fit together
	@cd $(HERE) && .venv/bin/ruff check .
	@cd $(HERE) && .venv/bin/ruff format --check .
	@cd $(HERE) && .venv/bin/mypy
	@$(BIN)/uv pip check --quiet --python $(BIN)/python

docs: $(READY:ready=docs) ## build the documentation into site/, where index.html opens without a server; check its links
	@cd $(HERE) && .venv/bin/python -m docs.scripts.learn >/dev/null
	@cd $(HERE) && .venv/bin/python -m zensical build --clean --strict
	@cd $(HERE) && .venv/bin/python docs/scripts/check_site.py site

$(HERE).venv/docs: $(READY)
	@cd $(HERE) && .venv/bin/uv pip install --quiet --python .venv/bin/python --constraint requirements.lock --extra docs -r pyproject.toml
	@touch $@

audit: $(READY) ## look for known vulnerabilities of the pinned dependencies (needs the network)
	@$(BIN)/uv tool run pip-audit --no-deps --disable-pip -r $(HERE)requirements.lock

lock: ## pin the newest admitted versions again
	cd $(HERE) && .venv/bin/uv pip compile --quiet --universal --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
		--extra dev --output-file requirements.lock pyproject.toml

clean: ## remove the environment and caches, never runs or data
	cd $(HERE) && rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis .cache site build *.egg-info
