# Everything a developer runs; `make help` lists it. CI runs the same targets.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
# The nets of the quickstart and the tests are small: threads would only wait for each other.
export OMP_NUM_THREADS ?= 1
FAST := $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help install demo test coverage test-slow lint format bench showdown contrastive robustness discovery refinement draws photos verdicts shortcuts uses clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $(STAMP)

install: $(STAMP)  ## Make .venv and install the package with what its tests need

demo: $(STAMP)  ## Run the quickstart: labelled images to a better classifier, with a report
	$(BIN)/detaux fit --config configs/quickstart.yaml

test: $(STAMP)  ## Fast tests (minutes)
	$(FAST)

coverage: $(STAMP)  ## Fast tests with line coverage, which takes them half as long again
	$(FAST) --cov --cov-report=term:skip-covered --cov-fail-under=90

test-slow: $(STAMP)  ## Tests that take longer: the notebook, kill and resume, two ranks
	$(BIN)/python -m pytest -m slow --timeout=1200

lint: $(STAMP)  ## Style, types and the order of the rooms
	$(BIN)/ruff check --no-cache .  # whose cache overlooks new modules
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## Put the code in its standard form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## Measure speed, each as a ratio in one run
	$(BIN)/python -m tests.benchmarks

showdown: $(STAMP)  ## All arms on the quickstart's data, the table in docs/results.md (half an hour)
	$(BIN)/detaux fit --config configs/showdown.yaml
	$(BIN)/detaux compare runs/showdown --format markdown
	$(BIN)/detaux compare runs/showdown --output runs/showdown/compare.html

contrastive: $(STAMP)  ## The contrastive papers' study on digit scenes, its tables (half an hour)
	$(BIN)/python -m tests.contrastive

robustness: $(STAMP)  ## Discovery over 10 seeds, the table in docs/results.md (half an hour)
	$(BIN)/python -m tests.robustness

discovery: $(STAMP)  ## Which score tells what a candidate task is worth, its tables (an hour)
	$(BIN)/python -m tests.discovery

refinement: $(STAMP)  ## Labels as found and refined, by disentangler and clusterer (an hour)
	$(BIN)/python -m tests.refinement

draws: $(STAMP)  ## The quickstart over 10 draws of its data, the table in docs/results.md (an hour)
	$(BIN)/python -m tests.draws

photos: $(STAMP)  ## Erasing discovered groups on photographs, FOLDER=... WEIGHTS=... (an hour)
	$(BIN)/python -m tests.photos $(FOLDER) $(if $(WEIGHTS),--weights $(WEIGHTS))

verdicts: $(STAMP)  ## What was said of groups by what came of it, after photos; LADDERS=<folders>
	$(BIN)/python -m tests.verdicts --ladders $(LADDERS)

shortcuts: $(STAMP)  ## Whether the shortcut alarm and the group sheet's intervals hold (half an hour)
	$(BIN)/python -m tests.shortcuts

uses: $(STAMP)  ## What the verdict on uses of groups costs: learn, balance or leave (an hour)
	$(BIN)/python -m tests.uses

clean:  ## Remove the environment, caches and runs
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* runs
