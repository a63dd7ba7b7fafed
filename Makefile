# Two commands matter: `make demo` and `make test`. Each makes .venv and installs what it needs.

VENV := .venv
COMMA := ,
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
LOG := $(VENV)/install.log
# Tests run on this many processes.
WORKERS ?= 2
# Said before anything is installed. Tests: with a CPU build of torch; a CUDA build takes several GB.
DEMO_NEEDS := what the demo needs (190 MB to download, 0.9 GB on disk, about 2 minutes)
TEST_NEEDS := what the tests need (450 MB to download, 2.1 GB on disk, about 3 minutes)

# A .venv whose interpreter has gone (Python upgraded, folder copied to another machine) is made anew.
ifneq ($(wildcard $(VENV)/.created),)
  ifneq ($(shell $(PY) -c 'print("works")' 2>/dev/null),works)
    $(shell rm -f $(VENV)/.created $(VENV)/.demo-stamp $(VENV)/.test-stamp)
  endif
endif

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean postgres chromium

help:  ## show this list
	@echo "cps-router: routes LLM calls to the tier with the lowest cost per success."
	@echo
	@grep -E '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## /  make \1|/' | \
	  awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'
	@echo
	@echo "Another Python than python3: make clean demo PYTHON=/path/to/python3.12"

demo: $(VENV)/.demo-stamp  ## train a router on real outcomes, show what it saves, route five queries
	@$(PY) -m training.demo

test: $(VENV)/.test-stamp lint postgres chromium  ## check style and types, then run the whole test suite
	@$(PY) -m pytest -n $(WORKERS)

# The ledger is tested on a real server; without one those tests are skipped, loudly.
postgres:
	@if ! command -v initdb >/dev/null 2>&1 && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    echo "make: installing PostgreSQL, which the ledger is tested on; this is done once"; \
	    { apt-get update -qq; DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -qq --no-install-recommends postgresql; } >/dev/null 2>&1 || \
	      echo "make: POSTGRESQL COULD NOT BE INSTALLED: the ledger is tested on SQLite alone." >&2; \
	  else \
	    echo "make: THERE IS NO POSTGRESQL: the ledger is tested on SQLite alone (on Debian or Ubuntu: apt-get install postgresql)." >&2; \
	  fi; \
	fi

# The report is looked at in a real browser; without one those tests are skipped, loudly.
chromium:
	@if ! command -v chromedriver >/dev/null 2>&1 || ! { command -v chromium || command -v chromium-browser; } >/dev/null 2>&1; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    echo "make: installing Chromium, which the report is looked at in; this is done once"; \
	    { apt-get update -qq; DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -qq --no-install-recommends chromium chromium-driver; } >/dev/null 2>&1 || \
	      echo "make: CHROMIUM COULD NOT BE INSTALLED: the report is not looked at in a browser." >&2; \
	  else \
	    echo "make: THERE IS NO CHROMIUM: the report is not looked at in a browser (on Debian or Ubuntu: apt-get install chromium chromium-driver)." >&2; \
	  fi; \
	fi

lint: $(VENV)/.test-stamp  ## ruff and mypy
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --check --quiet . || { echo "make: run $(PY) -m ruff format . first." >&2; exit 1; }
	@$(PY) -m mypy --no-error-summary

bench: $(VENV)/.demo-stamp  ## measure speed, and what decisions are worth beside their rivals'
	@$(PY) -m benchmarks.run --out benchmarks/RESULTS.md

clean:  ## remove .venv, builds and caches (not mlflow.db, nor artifacts)
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call install,extras,what is said first)
define install
	@echo "make: installing $(2); this is done once"
	@$(PIP) install --quiet --editable '.[$(1)]' >$(LOG) 2>&1 || { \
	  if grep -q 'No space left' $(LOG); then \
	    echo "make: the disk is full: make room and run make again." >&2; \
	  elif grep -qiE 'no matching distribution|could not find a version|connection|retries' $(LOG); then \
	    echo "make: pip reached no package index that has the packages: check the network and pip's settings, then run make again (pip's own words are in $(LOG))." >&2; \
	  else \
	    echo "make: the packages could not be installed: read why in $(LOG), then run make again." >&2; \
	  fi; exit 1; }
endef

$(VENV)/.demo-stamp: pyproject.toml | $(VENV)/.created
	$(call install,train,$(DEMO_NEEDS))
	@touch $@

$(VENV)/.test-stamp: pyproject.toml | $(VENV)/.created
	$(call install,train$(COMMA)encoder$(COMMA)client$(COMMA)postgres$(COMMA)test$(COMMA)dev,$(TEST_NEEDS))
	@touch $@ $(VENV)/.demo-stamp

# A named PYTHON is taken or refused, never replaced; without one, the first that will do is taken.
$(VENV)/.created:
	@best=; old=; bare=; \
	for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	  version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	  if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	    old="$${old:-$$python is Python $$version}"; \
	  elif ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    bare="$${bare:-$$python}"; \
	  else \
	    best="$$python"; break; \
	  fi; \
	done; \
	if [ -z "$$best" ] && [ -n "$$bare" ]; then \
	  echo "make: $$bare cannot make virtual environments: install its venv module (on Debian or Ubuntu: apt-get install python3-venv) and run make again." >&2; exit 1; \
	elif [ -z "$$best" ]; then \
	  echo "make: Python 3.11 or newer is needed, but $${old:-no $(or $(PYTHON),python3) was found}: install one and run make again, or name it: make $(or $(firstword $(MAKECMDGOALS)),demo) PYTHON=/path/to/python3.11." >&2; exit 1; \
	fi; \
	rm -rf $(VENV); \
	if ! "$$best" -m venv $(VENV); then \
	  echo "make: $$best could not make $(VENV): check that its venv module is whole (on Debian or Ubuntu: apt-get install python3-venv) and that the disk has room." >&2; exit 1; \
	fi; \
	touch $@
