# make lab    install, train for under a minute, see what the model writes
# make test   install with the extras, check and test
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
INSTALLED_DEV := .venv/.installed-dev

.PHONY: lab test test-slow check clean

lab: $(INSTALLED)
	$(BIN)/gptlab train shakespeare --resume --steps 1000 --out runs/lab
	@echo
	$(BIN)/gptlab sample runs/lab "ROMEO:" --tokens 300 --temperature 0.8

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
