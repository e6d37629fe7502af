# `make run` and `make test` set up .venv by themselves, and again only when pyproject.toml or constraints.txt has changed.
PYTHON ?= python3
installed := .venv/.installed
# The commands of .venv come first, whichever environment the calling shell has active; nothing asks the Hugging Face hub.
in_venv := PATH="$(CURDIR)/.venv/bin:$$PATH"
offline := $(in_venv) HF_HUB_OFFLINE=1
pytest := pytest -n auto --dist worksteal
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

.PHONY: help install run test faults lint demo clean
.DEFAULT_GOAL := help

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

install: $(installed)  ## make .venv with everything: on Linux about 6 GB and 2 to 4 minutes

run: $(installed)  ## the whole pipeline on the embedded miniature, offline, ending in a report
	$(offline) bash recipes/quickstart.sh
	@echo "The report: $(CURDIR)/runs/quickstart/report.html"

test: lint  ## ruff, mypy, the fast tests, then the slow ones
	$(offline) $(pytest) -m "not slow"
	$(offline) $(pytest) -m slow

faults: $(installed)  ## kills, signals, full disks, flipped bits, damaged files and configs, many of each: up to an hour
	$(offline) SKYGEN_FAULTS=long $(pytest) tests/faults

lint: $(installed)  ## ruff and mypy alone
	$(in_venv) ruff check .
	$(in_venv) ruff format --check .
	$(in_venv) mypy

demo: $(installed)  ## the demo page, on this machine only
	$(in_venv) python demo/app.py

clean:  ## remove .venv and what tools have cached; runs/ stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache

$(installed): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "skygen needs Python 3.11 or newer; name one: make install PYTHON=python3.11" >&2; exit 2; }
	.venv/bin/python -c "" 2>/dev/null || $(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install -e ".[all]" -c constraints.txt
	@touch $@
