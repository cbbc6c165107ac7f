# Thin: every target is a command of deploy/bootstrap.py, which makes .venv when it is not there.
# Arguments go through ARGS, e.g. make test ARGS="-k cancel -x".
PYTHON ?= python3
BOOTSTRAP = $(PYTHON) deploy/bootstrap.py
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run test test-unit test-integration test-acceptance test-e2e bench bench-full chaos chaos-long chaos-against check fmt lint types imports codespell lock lock-check audit clean

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Use
setup: ## make .venv and install everything
	@$(BOOTSTRAP) setup
run: ## the whole product on this machine (embedded Postgres and Valkey)
	@exec $(BOOTSTRAP) run $(ARGS)

##@ Test
test: ## all tests, on real servers they start themselves
	@$(BOOTSTRAP) test $(ARGS)
test-unit: ## the pure ones
	@$(BOOTSTRAP) test-unit $(ARGS)
test-integration: ## with real Postgres and Valkey
	@$(BOOTSTRAP) test-integration $(ARGS)
test-acceptance: ## the real processes, over HTTP
	@$(BOOTSTRAP) test-acceptance $(ARGS)
test-e2e: ## the AI SDK's useChat in a headless browser; needs npm and Chromium, writes a report
	@$(BOOTSTRAP) test-e2e $(ARGS)
bench: ## Turnkeep beside a plain baseline, 10 minutes; the report lands in docs/reports
	@$(BOOTSTRAP) bench $(ARGS)
bench-full: ## longer, and with millions of turns, 100,000 pending, 10,000 idle streams
	@$(BOOTSTRAP) bench --full $(ARGS)
chaos: ## break a deployment under load and check every promise, 15 minutes; a report as well
	@$(BOOTSTRAP) chaos $(ARGS)
chaos-long: ## the same at full length, three seeds, on Valkey and on Debian's Redis: hours
	@$(BOOTSTRAP) chaos --profile long --seeds 3 --redis valkey,redis $(ARGS)
chaos-against: ## break a deployment of yours by your commands; ARGS="--help" tells how
	@$(BOOTSTRAP) chaos-against $(ARGS)
check: ## what CI runs: lint, types, imports, spelling, locks, advisories, tests
	@$(BOOTSTRAP) check $(ARGS)

##@ Change
fmt: ## format the code
	@$(BOOTSTRAP) fmt $(ARGS)
lint: ## ruff
	@$(BOOTSTRAP) lint $(ARGS)
types: ## mypy --strict
	@$(BOOTSTRAP) types $(ARGS)
imports: ## which package may import which
	@$(BOOTSTRAP) imports $(ARGS)
codespell: ## spelling
	@$(BOOTSTRAP) codespell $(ARGS)
lock: ## renew requirements*.lock from pyproject.toml (needs uv)
	@$(BOOTSTRAP) lock $(ARGS)
lock-check: ## do the locks belong to pyproject.toml?
	@$(BOOTSTRAP) lock-check
audit: ## known advisories about what the lock pins; writes sbom.json (CycloneDX)
	@$(BOOTSTRAP) audit
clean: ## remove .venv and caches (not .turnkeep: that is data)
	rm -rf .venv .venv.lock .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
