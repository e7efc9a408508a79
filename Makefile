# Everything runs from a virtual environment that these targets make and keep up to date.
#   make serve   serve the sentiment example (REST on 8080, gRPC on 8081, metrics on 8082)
#   make test    run all quick tests
#   make test-faults   kill workers, leave calls, overload, reload: minutes
#   make test-runtimes-mllib   serve models of Spark; needs Java 17, a package index, minutes
#   make test-runtimes-tempo   serve pipelines of Tempo; needs a package index
#   make test-runtimes-alibi-detect, make test-runtimes-alibi-explain   need Python 3.10 or 3.11 and a package index
#   make test-thirdparty  run released runtimes of MLServer 1.7.1 on this server; needs a package index
#   make test-clients   other people's gRPC clients and proxies, see tests/clients/README.md
#   make test-runtimes-mlflow  test the MLflow runtime with three versions of MLflow; needs a package index
#   make protos  write the gRPC messages and stubs anew, after a change of proto/
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEV := $(VENV)/.dev
# Runtimes whose frameworks are light enough for everybody's environment.
RUNTIMES := sklearn xgboost lightgbm catboost onnx torch huggingface
EXAMPLE := examples/sentiment
EXAMPLE_DEPENDENCIES := $(VENV)/.example
# The release of torch whose CPU build is enough. Before all else: what depends on torch would bring another.
TORCH := torch==2.13.0

.PHONY: help serve test test-faults test-thirdparty test-clients test-runtimes-mlflow test-runtimes-mllib test-runtimes-tempo \
  test-runtimes-alibi-detect test-runtimes-alibi-explain \
  lint format types protos docs check fuzz fuzz-http2 bench bench-micro clean

help:
	@grep -E '^#   make' Makefile | sed 's/^#   //'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(DEV): $(BIN)/python pyproject.toml $(RUNTIMES:%=runtimes/%/pyproject.toml)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable . --group dev
	$(BIN)/python -m pip install --quiet $(RUNTIMES:%=--editable runtimes/%)
	@touch $@

$(EXAMPLE_DEPENDENCIES): $(DEV) $(EXAMPLE)/requirements.txt
	$(BIN)/python -m pip install --quiet --requirement $(EXAMPLE)/requirements.txt
	@touch $@

serve: $(EXAMPLE_DEPENDENCIES)
	PYTHON=$(abspath $(BIN)/python) bash $(EXAMPLE)/get_models.sh
	@echo
	@echo "Once the server says that it is ready, try in another terminal:"
	@echo "  $(BIN)/python $(EXAMPLE)/test_local_http_endpoint.py"
	@echo "  $(BIN)/python $(EXAMPLE)/test_local_grpc_endpoint.py"
	@echo "  curl localhost:8080/v2/models/sentiment"
	@echo "  curl localhost:8082/metrics"
	@echo
	$(BIN)/mlserver start $(EXAMPLE)

test: $(EXAMPLE_DEPENDENCIES)
	$(BIN)/python -m pytest

# Workers killed, callers leaving, overload, reloads: minutes.
test-faults: $(DEV)
	$(BIN)/python -m pytest tests/faults -m slow

# Frameworks that are too heavy for everybody's environment: each has one of its own.
.envs/%/.ready: pyproject.toml runtimes/%/pyproject.toml
	$(PYTHON) -m venv .envs/$*
	.envs/$*/bin/python -m pip install --quiet --upgrade pip
	.envs/$*/bin/python -m pip install --quiet --editable . --group dev --editable runtimes/sklearn ./runtimes/$*
	@touch $@

test-runtimes-mllib test-runtimes-tempo: test-runtimes-%: .envs/%/.ready
	.envs/$*/bin/python -m pip install --quiet --no-deps ./runtimes/$*
	.envs/$*/bin/python -m pytest runtimes/$*/tests

# Alibi keeps to numpy 1, which some of our own tools have left behind.
.envs/alibi-detect/.ready: pyproject.toml runtimes/alibi-detect/pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet $(TORCH)
	$(@D)/bin/python -m pip install --quiet --editable . --group test --editable "runtimes/alibi-detect[tensorflow,torch,context]"
	@touch $@

.envs/alibi-explain/.ready: pyproject.toml runtimes/alibi-explain/pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet --editable . --group test --editable runtimes/sklearn \
		--editable runtimes/xgboost --editable "runtimes/alibi-explain[tensorflow,xgboost]"
	@touch $@

test-runtimes-alibi-detect test-runtimes-alibi-explain: test-runtimes-%: .envs/%/.ready
	.envs/$*/bin/python -m pytest runtimes/$*/tests

test-thirdparty: $(DEV)
	$(BIN)/python -m pytest tests/thirdparty/released.py

# Installs what comes from PyPI and npm beside the project; what is not there is skipped, with the reason.
test-clients: $(DEV)
	$(BIN)/python -m tests.clients.prepare
	$(BIN)/python -m pytest tests/clients -m clients -rs

# MLflow brings much along, and each version other things: an environment for each. The older ones are the last of
# 2 and of 3 that know `--enable-mlserver`; the scoring server of 2.22 does not start on starlette 1.
MLFLOW_ENVIRONMENTS := build/mlflow
MLFLOW_OLD := $(MLFLOW_ENVIRONMENTS)/2.22.0/.ready $(MLFLOW_ENVIRONMENTS)/3.12.0/.ready
MLFLOW_NEW := $(MLFLOW_ENVIRONMENTS)/current/.ready

$(MLFLOW_OLD): $(MLFLOW_ENVIRONMENTS)/%/.ready: pyproject.toml runtimes/mlflow/pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet "mlflow==$*" "starlette<1" --editable . --editable runtimes/mlflow
	@touch $@

$(MLFLOW_NEW): pyproject.toml runtimes/mlflow/pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet --editable . --editable runtimes/mlflow --group dev lightgbm xgboost catboost
	@touch $@

test-runtimes-mlflow: $(MLFLOW_OLD) $(MLFLOW_NEW)
	MLFLOW_ENVIRONMENTS=$(abspath $(MLFLOW_ENVIRONMENTS)) $(MLFLOW_ENVIRONMENTS)/current/bin/python -m pytest runtimes/mlflow

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV)
	$(BIN)/mypy

protos: $(DEV)
	$(BIN)/python proto/generate.py

check: lint types test

docs: $(DEV)
	$(BIN)/mkdocs build --quiet

# A million cases each; minutes rather than seconds.
fuzz: $(DEV)
	$(BIN)/python -m tests.fuzz.fuzz_json --runs 1000000
	$(BIN)/python -m tests.fuzz.fuzz_http --runs 1000000
	$(BIN)/python -m tests.fuzz.fuzz_protobuf --runs 1000000
	$(BIN)/python -m tests.fuzz.fuzz_http2 --runs 1000000

# Guided by coverage where there is a wheel of atheris, mutated by hand where there is none.
fuzz-http2: $(DEV)
	-$(BIN)/python -m pip install --quiet atheris
	$(BIN)/python -m tests.fuzz.cover_http2 --seconds 600

# Against peers and floors, which are installed beside the project; see benchmarks/README.md.
bench: $(DEV)
	$(BIN)/python benchmarks/rest_load.py
	$(BIN)/python benchmarks/rest_large.py
	$(BIN)/python benchmarks/grpc_load.py
	$(BIN)/python benchmarks/grpc_large.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/liveness.py
	$(BIN)/python benchmarks/workers.py
	$(BIN)/python benchmarks/runtimes.py
	$(BIN)/python benchmarks/runtimes_load.py

bench-micro: $(DEV)
	$(BIN)/python -m pytest benchmarks/micro --benchmark-only --benchmark-columns=median,iqr,ops --override-ini testpaths=benchmarks
	$(BIN)/python benchmarks/micro/http2.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
