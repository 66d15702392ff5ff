# Two commands do everything on a fresh machine: `make demo` and `make test`.
# PYTHON chooses the interpreter (3.11 or newer) that makes .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_DATA ?= $(LLMTOOLS_TEST_DATA)
PYTEST_ARGS ?=

.PHONY: demo test soak check bench docs kernels clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "llmtools needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $(READY)

# The main job, from this machine's own Python library to a served model, in a few minutes.
demo: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/quickstart.sh demo-out

# Two processes, as most tests wait for a process of their own; each file's tests stay together.
test: $(READY)
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# The long fault, fuzz and load suites; docs/reliability.md says what they do and how long they take.
soak: $(READY)
	$(BIN)/pytest -m soak --durations=0 $(PYTEST_ARGS)

# Lint, format, strict types on src, and the import arrows.
check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_layers.py

# Every speed claim: ours and the peer's in one run, with the ratio. Peers whose pins clash with ours
# get an environment of their own.
bench: $(READY)
	$(if $(BENCH_DATA),$(BIN)/python benchmarks/dedup.py --data $(BENCH_DATA),@echo "dedup needs its corpus: make bench LLMTOOLS_TEST_DATA=DIR, see benchmarks/dedup.py")
	$(if $(BENCH_DATA),$(foreach one,rules language ngram_lm minhash exact,$(BIN)/python benchmarks/data/$(one).py --data $(BENCH_DATA) &&) true)
	$(BIN)/python benchmarks/data/banding.py
	$(BIN)/python benchmarks/tokens/pack.py
	$(if $(BENCH_DATA),$(BIN)/python benchmarks/tokens/encode.py --data $(BENCH_DATA))
	$(if $(BENCH_DATA),$(BIN)/python benchmarks/tokens/train.py --data $(BENCH_DATA))
	$(if $(BENCH_DATA),$(BIN)/python benchmarks/lineage.py --data $(BENCH_DATA))
	$(if $(BENCH_DATA),$(BIN)/python benchmarks/eval.py --data $(BENCH_DATA))
	$(BIN)/python benchmarks/ops/cpu.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/train.py

# Every Triton kernel: values in the interpreter, every configuration compiled for four GPUs, and
# docs/kernels.md. A GPU is not needed; what was compiled before and did not change is cached.
kernels: $(READY)
	$(BIN)/pytest -q -n 2 -m "soak or not soak" tests/kernels
	$(BIN)/python tests/kernels/report.py

# docs/cli.md from the program's own help.
docs: $(READY)
	COLUMNS=80 $(BIN)/python docs/generate_cli.py

clean:
	rm -rf $(VENV) demo-out
