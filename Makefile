# make quickstart    the whole loop on the built-in task, with a report at the end
# make test          the tests that need no GPU and not much time
# make help          everything else

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
export HF_HUB_OFFLINE ?= 1

.PHONY: help setup quickstart headlines reference test test-all check audit format clean-venv

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

setup:  ## .venv with everything pinned (instant when nothing changed)
	@bash requirements/setup.sh

quickstart: setup  ## three objectives from one warm start, evaluated and reported: runs/quickstart/report.html
	@$(PYTHON) -m jobs.quickstart

headlines: setup  ## real headlines, a real language model, learnt models of clicks: runs/headlines/report.html
	@$(PYTHON) -m jobs.quickstart headlines

reference: setup  ## the long version of the quickstart: three seeds, more steps
	@$(PYTHON) -m jobs.quickstart configs/reference.yaml

test: setup  ## tests without those marked slow or gpu, in two processes
	@$(PYTHON) -m pytest -n 2 --durations 15 -m "not slow and not gpu"

test-all: setup  ## tests without those marked gpu
	@$(PYTHON) -m pytest -n 2 --durations 15 -m "not gpu"

check: setup  ## lint, format, types, layers, words, dependencies
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m pyright
	@.venv/bin/lint-imports
	@$(PYTHON) -m tests.words
	@$(PYTHON) requirements/audit.py

audit:  ## known vulnerabilities of all pinned packages (needs pip-audit and network)
	@bash requirements/vulnerabilities.sh

format: setup  ## what `make check` would complain about and ruff can repair
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

clean-venv:  ## remove .venv
	rm -rf .venv
