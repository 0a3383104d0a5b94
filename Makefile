# Two commands do everything on a fresh machine: `make demo` and `make test`. Both install what they need into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test nightly arithmetic fuzz check lint types contracts docs dist pythons accuracy clean

# torch comes first, by exact pin: a looser pin, or another package pulling it in, would fetch gigabytes of CUDA libraries.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,quant,plot,gguf,docs,dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/plan --gpu a10g --max-length 2048
	$(BIN)/plan demo

# One thread a worker, and threads that wait don't spin: two workers share two cores.
test: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist worksteal

# What is too slow for every change: as many tests again in time, few in number.
nightly: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist worksteal -m nightly

# The trainer on plain loops in place of the processor's fast ones: what hangs on the last bits of its sums shows itself.
ARITHMETIC := ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE ATEN_CPU_CAPABILITY=default
arithmetic: $(STAMP)
	for forced in $(ARITHMETIC); do echo $$forced; env $$forced OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
		$(BIN)/python -m pytest -n 2 --dist worksteal tests/trainer tests/planner/memory || exit 1; done

# Hostile inputs of every kind for an hour; another seed looks elsewhere.
fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),60) --seed $(or $(SEED),1)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy planner hardware_profiles trainer

contracts: $(STAMP)
	$(BIN)/lint-imports

check: lint types contracts

# The site, into site/; a link or an anchor that leads nowhere fails it.
docs: $(STAMP)
	$(BIN)/python -m tests.support.option_docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# Wheel and sdist, each installed into an empty environment and run from another folder.
dist:
	PYTHON=$(PYTHON) .ci/dist

# The planner's tests that need no torch, on each supported Python that is here.
pythons:
	.ci/pythons

# Traces of the grid are kept; only what is missing is traced (some minutes for all of it).
accuracy: $(STAMP)
	$(BIN)/python -m benchmarks.accuracy

clean:
	rm -rf $(VENV) build dist runs
