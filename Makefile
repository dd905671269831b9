# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Everything that is made goes under .cache. PYTHON=/path/to/python3 chooses the interpreter; BENCH is passed to the
# benchmark, TESTS to pytest (make integration TESTS="-k restore -x"), SANITY to ansible-test (SANITY="--test pylint").

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

TREE := .cache/ansible_collections/fleet/backup
PYTHONS := 3.8 3.9 3.10 3.11 3.12 3.13
WORKERS := 2
# Some of these wait for time-outs, and leave a processor to another worker meanwhile.
integration: WORKERS := 3
# A test that hangs fails, and does not take the whole run with it; the oldest Pythons' pytest does not know how.
PYTEST = $(if $(MEASURE),coverage run -m pytest,pytest) --quiet --numprocesses $(WORKERS) \
	--override-ini=faulthandler_exit_on_timeout=true $(TESTS)

# The caller's own settings of these tools have no say here.
$(foreach name,$(filter ANSIBLE_% ANTSIBULL_% COVERAGE_% HYPOTHESIS_% MYPY% PYTEST_% RUFF_% PYTHONHOME PYTHONPATH,$(.VARIABLES)),$(eval unexport $(name)))
export ANSIBLE_CONFIG := $(CURDIR)/tools/ansible.cfg
export ANSIBLE_HOME := $(CURDIR)/.cache/ansible
export ANSIBLE_LOCAL_TEMP := $(CURDIR)/.cache/ansible/tmp
export ANSIBLE_REMOTE_TMP := $(CURDIR)/.cache/ansible/tmp
export ANSIBLE_ASYNC_DIR := $(CURDIR)/.cache/ansible/async
export ANSIBLE_NOCOWS := 1
export LC_ALL := C.UTF-8
export HYPOTHESIS_STORAGE_DIRECTORY := $(CURDIR)/.cache/hypothesis
# The demo alone has another environment, and puts that one before this.
export PATH := $(CURDIR)/.cache/venv/bin:$(PATH)

.PHONY: help
help: ## List these commands
	@echo "fleet.backup: make <command>"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1 \2/p' $(firstword $(MAKEFILE_LIST)) | \
	    while read -r name text; do printf '  %-12s %s\n' "$$name" "$$text"; done

.PHONY: demo
demo: ## See it work: back up, lose, restore, verify and rotate a sample database (no root; PyPI only)
	@python=$$(tools/python 3.10 3.11 3.12 3.13 3.14); tools/venv .cache/demo-venv requirements/demo.txt "$$python"
	@tools/demo

.PHONY: test
test: ## Install what the tests need (packages as root on Debian) and run all of them (MEASURE=yes: with coverage)
	@tools/packages tests/packages.txt
	@$(MAKE) environment
	@MEASURE=$(MEASURE) tools/test

.PHONY: environment
environment:
	@python=$$(tools/python 3.11 3.12 3.13); tools/venv .cache/venv requirements/dev.txt "$$python"

.PHONY: tree
tree:
	@tools/tree $(TREE)

.PHONY: lint
lint: environment ## Read everything without running it
	@$(MAKE) --keep-going ruff mypy yamllint shellcheck ansible-lint docs changelog tarball

.PHONY: ruff
ruff: environment
	@echo "==> ruff"
	@ruff check --quiet --output-format concise .
	@ruff format --quiet --check --diff .

.PHONY: format
format: environment ## Put imports and layout in order
	@ruff check --quiet --select I --fix .
	@ruff format --quiet .

.PHONY: mypy
mypy: environment
	@echo "==> mypy (the engine, strict)"
	@mypy --no-error-summary

.PHONY: yamllint
yamllint: environment
	@echo "==> yamllint"
	@yamllint --strict .

.PHONY: shellcheck
shellcheck:
	@echo "==> shellcheck"
	@grep -l '^#!.*bash' .ci/* tests/hosts/* tools/* | xargs shellcheck

.PHONY: ansible-lint
ansible-lint: environment tree
	@echo "==> ansible-lint (production)"
	@cd $(TREE) && ANSIBLE_COLLECTIONS_PATH="$(CURDIR)/.cache" ansible-lint --offline -q

.PHONY: docs
docs: environment tree ## Read the modules' and roles' documentation as Ansible does
	@echo "==> antsibull-docs"
	@cd $(TREE) && ANSIBLE_COLLECTIONS_PATH="$(CURDIR)/.cache" antsibull-docs lint-collection-docs --plugin-docs .

.PHONY: changelog
changelog: environment
	@echo "==> antsibull-changelog"
	@antsibull-changelog lint

.PHONY: tarball
tarball: environment
	@tools/install .cache/collections
	@tools/tarball

.PHONY: unit
unit: environment ## Run the unit tests, on every Python from 3.8 to 3.13 that is there
	@echo "==> Unit tests on Python $$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
	@$(PYTEST) tests/unit
	@tools/unit-everywhere $(WORKERS) $(PYTHONS) -- $(TESTS)

.PHONY: integration
integration: environment ## Run the integration tests, against real servers and programs
	@echo "==> Integration tests"
	@$(PYTEST) --dist loadgroup tests/integration tests/foreign/test_contrib.py

.PHONY: faults
faults: environment ## Run the fault tests: kills, failing calls, full disks, damage (FULL=yes: at every call)
	@echo "==> Fault tests"
	@FAULTS_FULL=$(FULL) $(PYTEST) $(if $(FULL),--override-ini=faulthandler_timeout=7200) tests/faults

.PHONY: foreign
foreign: environment ## Bring back databases that nobody here made: PostgreSQL's own, and those of Debian's extensions
	@tools/packages tests/packages.txt
	@tools/packages tests/foreign/packages.txt
	@tools/foreign .cache/foreign
	@echo "==> Foreign databases"
	@$(PYTEST) --override-ini=faulthandler_timeout=1800 tests/foreign

.PHONY: fleet
fleet: ## Test whole fleets: hosts with systemd, ssh and PostgreSQL (root and podman)
	@tools/packages tests/hosts/packages.txt
	@$(MAKE) environment
	@tests/hosts/images
	@echo "==> Fleet tests"
	@$(PYTEST) --dist loadfile --override-ini=faulthandler_timeout=1200 tests/fleet

.PHONY: molecule
molecule: ## Run the roles' molecule scenarios (root and podman)
	@tools/packages tests/hosts/packages.txt
	@# Side by side, since each of them waits for timers.
	@tools/molecule default & default=$$!; tools/molecule fleet || failed=yes; wait $$default && [[ $${failed:-no} == no ]]

.PHONY: sanity
sanity: environment tree ## Run ansible-test's sanity tests
	@echo "==> Sanity tests"
	@tools/sanity $(TREE) .cache/home $(SANITY)

.PHONY: bench
bench: ## Measure speed and memory against the yardsticks, into bench/results
	@tools/packages bench/packages.txt
	@$(MAKE) environment
	@python bench/run.py $(BENCH)

.PHONY: clean
clean: ## Remove everything that was made
	@rm -rf .cache
