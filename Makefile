PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
MINUTES ?= 60
# One process of tests for each processor. A process takes a whole file at a time: its fixtures are made once, and
# what must not run twice at once, such as a Ray cluster or a browser, has a file of its own. A process that hangs or
# dies ends the run, because pytest-xdist would otherwise run its test again.
AT_ONCE := --numprocesses auto --dist loadfile --max-worker-restart 0
INPUTS := pyproject.toml setup.py constraints.txt

.PHONY: adversary demo docs reference test test-old test-formats lint bench bench-large aot clean

demo: $(VENV)/.installed  ## match the sample that ships with the package
	@$(BIN)/saematch demo

test: $(VENV)/.installed-test lint  ## ruff, mypy, pytest
	$(BIN)/python -m pytest $(AT_ONCE)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/typecheck.py

# The oldest triton and numpy that are supported. Oldest torch: GPU machines have it; its CPU build is not everywhere.
test-old: .venv-old/.installed
	.venv-old/bin/python -m pytest $(AT_ONCE)

test-formats: .venv-formats/.installed  ## read the SAEs that other packages write, beside those packages
	.venv-formats/bin/python -m pytest tests/test_their_packages.py

adversary: $(VENV)/.installed-test  ## search an hour for claims that exact arithmetic refutes; MINUTES=5 for less
	PYTHONPATH=tests $(BIN)/python -m adversary --minutes $(MINUTES)

reference: $(VENV)/.installed-test  ## write docs/commands.md and docs/python.md from the commands' help and docstrings
	$(BIN)/python docs/reference.py

docs: $(VENV)/.installed-test  ## the site, in build/site
	$(BIN)/mkdocs build

bench: $(VENV)/.installed-bench  ## measure, append to bench/results, print the table
	$(BIN)/python -m pytest bench/assignment.py --benchmark-only -q
	$(BIN)/python -m pytest bench/nasty.py --benchmark-only -q
	$(BIN)/python bench/table.py

bench-large: $(VENV)/.installed-bench  ## the same at 65,536 and 131,072 features: many minutes
	$(BIN)/python -m pytest bench/large.py --benchmark-only -q -o faulthandler_timeout=0
	$(BIN)/python bench/table.py

$(VENV)/.installed-bench: $(VENV)/.installed-test $(INPUTS)
	@$(PIP) -c constraints.txt -e '.[bench]'
	@touch $@

aot: $(VENV)/.installed-test  ## compile every kernel for every chip, write bench/results/aot.md
	$(BIN)/python bench/aot.py --write

clean:
	rm -rf $(VENV) .venv-old .venv-formats build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis saematch-demo

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.exit(f"Python 3.11 to 3.13 is needed, this is {sys.version.split()[0]}; try: make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created $(INPUTS)
	@echo "Installing saematch into $(VENV); torch is large, this takes a minute or more."
	@$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed $(INPUTS)
	@$(PIP) -c constraints.txt -e '.[test]'
	@touch $@

.venv-old/.installed: $(INPUTS)
	@test -d .venv-old || $(PYTHON) -m venv .venv-old
	@grep -v '^numpy' constraints.txt > .venv-old/constraints.txt
	@.venv-old/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-old/constraints.txt -e '.[test]' 'triton==3.6.*' 'numpy<2.4'
	@touch $@

# The last four without what they need to train, run and plot models: an old nnsight and an old huggingface-hub among it.
.venv-formats/.installed: $(INPUTS)
	@test -d .venv-formats || $(PYTHON) -m venv .venv-formats
	@.venv-formats/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]' sae-lens==6.54.12 eai-sparsify==1.3.3
	@.venv-formats/bin/python -m pip install --quiet --disable-pip-version-check --no-deps dictionary-learning==0.1.0 circuit-tracer==0.5.0 llamascopium==2.0.0b34 overcomplete==0.3.0
	@touch $@
