# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Everything below makes what it needs: a virtual environment in build/ from any Python 3.11 or newer, with pinned versions.
# `make help` says what there is.

SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

TEST := build/venv-test
LINT := build/venv-lint
PYTEST_ARGS ?= -q -n auto --dist loadfile --no-loadscope-reorder

help: ## say what there is
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed 's/:.*## /\t/' | expand -t 16

demo: $(TEST)/.stamp broker | packages ## a broker, a NAT, a Linux host and a router in namespaces: provision, prove, tear down
	$(TEST)/bin/python -m tests.lab demo

test: $(TEST)/.stamp | packages-vm ## every test (those in namespaces need root)
	$(TEST)/bin/python -m pytest $(PYTEST_ARGS)

lint: $(LINT)/.stamp ## ruff, mypy, yamllint, ansible-lint (profile production), changelog
	$(LINT)/bin/ruff check .
	$(LINT)/bin/mypy plugins/module_utils
	$(LINT)/bin/yamllint --strict .
	sh tests/tools/ansible_lint.sh $(LINT)
	$(LINT)/bin/antsibull-changelog lint

sanity: build/venv-sanity-2.21/.stamp build/venv-sanity-2.16/.stamp ## ansible-test sanity on the newest and the oldest ansible-core
	sh tests/tools/ansible_test.sh sanity-2.21 sanity
	sh tests/tools/ansible_test.sh sanity-2.16 sanity

units: $(TEST)/.stamp | packages ## the unit tests by ansible-test (UNITS=folder/: some of them)
	sh tests/tools/ansible_test.sh test units $(UNITS)

same-tests: $(TEST)/.stamp ## are the tests that ansible-test would run the ones that pytest runs?
	$(TEST)/bin/python -m tests.tools.same_tests

integration: $(TEST)/.stamp | packages ## the integration targets by ansible-test
	sh tests/tools/ansible_test.sh test integration

lab: build/venv-molecule/.stamp $(TEST)/.stamp | packages-vm ## the molecule scenarios on virtual machines (SCENARIOS="nat_host …": some; short: what CI runs), and all tunnels of all backends
	build/venv-molecule/bin/python -m tests.lab molecule $(SCENARIOS)
	$(if $(SCENARIOS),,TSP_MACHINES=whole $(TEST)/bin/python -m pytest -q -n 0 tests/machines/test_backends.py)
	$(if $(SCENARIOS),,TSP_KILLS=whole $(TEST)/bin/python -m pytest -q -n 0 tests/integration/test_agent_kill.py)

bench: $(TEST)/.stamp ## measure; writes build/bench.json
	$(TEST)/bin/python benchmarks/run.py

broker: $(TEST)/.stamp ## build dist/tsp-broker.pyz
	PYTHONPATH=plugins $(TEST)/bin/python -m module_utils._broker.build dist/tsp-broker.pyz

agent: $(TEST)/.stamp ## build dist/tsp-agent.pyz
	PYTHONPATH=plugins $(TEST)/bin/python -m module_utils._agent.bundle agent dist/tsp-agent.pyz

docs: $(TEST)/.stamp ## write the generated parts of docs/
	$(TEST)/bin/python -m tests.tools.docs --write

docs-check: $(TEST)/.stamp ## are the generated parts of docs/ what the code says?
	$(TEST)/bin/python -m tests.tools.docs --check

collection: $(LINT)/.stamp ## build the tarball for Galaxy into dist/
	mkdir -p dist
	$(LINT)/bin/ansible-galaxy collection build --force --output-path dist .

packages: ## install the programs that the namespaces need, where they are missing and we may
	@sh tests/tools/packages.sh

packages-vm: ## the same, and what the virtual machine of the kernel tests needs
	@sh tests/tools/packages.sh vm

requirements: build/venv-uv/.stamp ## compile requirements/*.in to *.txt
	cd requirements && for set in test:3.12 lint:3.12 molecule:3.12 sanity-2.21:3.12 test-3.11:3.11 lint-3.11:3.11 molecule-3.11:3.11 sanity-2.19:3.11 sanity-2.16:3.11; do \
		../build/venv-uv/bin/uv pip compile -q --universal --python-version $${set#*:} \
			--custom-compile-command "make requirements" -o $${set%:*}.txt $${set%:*}.in || exit 1; done

clean: ## remove what make made
	rm -rf build dist

build/venv-uv/.stamp: tests/tools/env.sh
	@mkdir -p build
	@sh tests/tools/env.sh uv

build/venv-%/.stamp: requirements/*.txt tests/tools/env.sh | build/venv-uv/.stamp
	@sh tests/tools/env.sh $*

.PHONY: help demo test lint sanity same-tests units integration lab bench broker agent docs docs-check collection packages packages-vm requirements clean
