# make lab    install, train for a minute and a half, read what the model writes and how it learned
# make test   install with the extras, check and test
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
INSTALLED_DEV := .venv/.installed-dev

.PHONY: lab test test-slow check clean

lab: $(INSTALLED)
	$(BIN)/gptlab train fables --preset gptlab-fables --resume --minutes 1.5 --out runs/lab
	@echo
	$(BIN)/gptlab sample runs/lab --temperature 0.8 --seed 1
	@echo
	$(BIN)/gptlab report runs/lab

test: check
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist loadfile

test-slow: $(INSTALLED_DEV)
	$(BIN)/python -m pytest -q -m slow

check: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
