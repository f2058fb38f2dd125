# Everything needs python3 (3.10 to 3.13) and make, and sets itself up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUTPUT ?= out/
INSTALLED := $(VENV)/.installed
CLOUD_INSTALLED := $(VENV)/.cloud-installed
DEV_INSTALLED := $(VENV)/.dev-installed

.DEFAULT_GOAL := help
.PHONY: help run-local run-dataflow run-flink flink-up flink-down test check servers lint lock bench bench-peers clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run-local: $(INSTALLED) ## Segment photos: INPUT=dir/ [OUTPUT=out/] [MODEL=dir/] [ARGS="--overlays"]
	@test -n "$(INPUT)" || { echo "make run-local: name the photos, as in INPUT=examples/" >&2; exit 2; }
	@$(BIN)/fcn-beam segment "$(INPUT)" --output "$(OUTPUT)" $(if $(MODEL),--model "$(MODEL)") $(ARGS)

# IMAGE is a container image built from the Dockerfile, of the same Python.
DATAFLOW = $(BIN)/fcn-beam segment "$(INPUT)" --output "$(OUTPUT)" $(if $(MODEL),--model "$(MODEL)") \
	--runner DataflowRunner --project "$(PROJECT)" --region "$(REGION)" \
	--temp_location "$(OUTPUT:/=)/dataflow-tmp" --experiments no_use_multiple_sdk_containers \
	--sdk_container_image "$(IMAGE)" --sdk_location container $(ARGS)

run-dataflow: export COMMAND = $(DATAFLOW)
run-dataflow: $(if $(DRY),,$(CLOUD_INSTALLED)) ## Segment on Dataflow: INPUT=gs://… OUTPUT=gs://… PROJECT=… REGION=… IMAGE=… [DRY=1]
	@test -n "$(INPUT)" -a -n "$(PROJECT)" -a -n "$(REGION)" -a -n "$(IMAGE)" || \
	  { echo "make run-dataflow: needs INPUT=gs://… OUTPUT=gs://… PROJECT=… REGION=… IMAGE=…; see the Dockerfile" >&2; exit 2; }
	@case "$(OUTPUT)" in gs://*) ;; *) echo "make run-dataflow: OUTPUT must be gs://…" >&2; exit 2;; esac
	$(if $(DRY),@printenv COMMAND,$(DATAFLOW))

# On the cluster of `make flink-up`, or on your own: its workers then are what ARGS say, as in
# ARGS="--environment_type DOCKER --environment_config IMAGE".
LOCAL_FLINK = --flink_master localhost:8081 --flink_job_server_jar .flink/job-server.jar --shared-disk \
	--environment_type PROCESS --environment_config '{"command": "$(abspath $(BIN))/fcn-beam-worker"}'

run-flink: $(INSTALLED) ## Segment on Flink: INPUT=dir/ [OUTPUT=out/] [FLINK_MASTER=host:8081] [MODEL=dir/] [ARGS=…]
	@test -n "$(INPUT)" || { echo "make run-flink: name the photos, as in INPUT=examples/" >&2; exit 2; }
	@$(BIN)/fcn-beam segment "$(INPUT)" --output "$(OUTPUT)" $(if $(MODEL),--model "$(MODEL)") \
	  --runner FlinkRunner $(if $(FLINK_MASTER),--flink_master "$(FLINK_MASTER)",$(LOCAL_FLINK)) $(ARGS)

flink-up: $(INSTALLED) ## Start a small Flink on this machine; needs Java and Maven
	@$(BIN)/python tools/flink_cluster.py up

flink-down: ## End it
	@$(PYTHON) tools/flink_cluster.py down

test: $(DEV_INSTALLED) ## Run the tests, slow ones too with ARGS=--all
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

servers: $(BIN)/fake-gcs-server $(BIN)/prism ## Install what tests of gs:// and of Prism use; needs Go

$(BIN)/fake-gcs-server: | $(DEV_INSTALLED)
	GOBIN="$(abspath $(BIN))" go install github.com/fsouza/fake-gcs-server@v1.56.1

# Of the version of apache-beam in requirements.txt.
$(BIN)/prism: | $(DEV_INSTALLED)
	GOBIN="$(abspath $(BIN))" go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0

LIGHT = tests/test_house.py tests/pipeline/images tests/pipeline/inputs/test_names.py \
	tests/pipeline/outputs/test_recipe.py tests/pipeline/outputs/test_summary.py \
	tests/pipeline/storage/test_names.py tests/pipeline/storage/test_local.py \
	tests/model_build/data --ignore tests/model_build/data/test_crops.py
check: lint ## Check style and types and run the tests of the light rooms, in under a minute
	@$(BIN)/python -m pytest $(LIGHT)

lint: $(DEV_INSTALLED) ## Check style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(DEV_INSTALLED) ## Measure the job beside a plain loop: INPUT=dir/ [MODEL=dir/]
	@$(BIN)/python benchmarks/job.py "$(INPUT)" $(if $(MODEL),--model "$(MODEL)") $(ARGS)

# Each peer has an environment of its own, of the packages in benchmarks/peers/NAME.txt. One that
# cannot be installed is left out of the table, which says why.
PEERS := ray openvino torch
bench-peers: export BENCH_PEERS = INPUT=$(INPUT)$(if $(ARGS), ARGS="$(ARGS)")
bench-peers: $(DEV_INSTALLED) $(PEERS:%=.venv-peers/%/.installed) ## Measure the job beside its peers: INPUT=dir/ [ARGS="--limit 600"]
	@$(BIN)/python benchmarks/peers/compare.py "$(INPUT)" $(ARGS)

.venv-peers/%/.installed: benchmarks/peers/%.txt | $(DEV_INSTALLED)
	@echo "setting up .venv-peers/$* (once, some minutes)"
	@$(BIN)/python -m venv .venv-peers/$*
	@.venv-peers/$*/bin/pip install --quiet --disable-pip-version-check -r $< >.venv-peers/$*/install.log 2>&1 && \
	  touch $@ || echo "make: $* cannot be installed; see .venv-peers/$*/install.log" >&2

# The set of the developers holds all others, which follow it.
COMPILE = $(BIN)/uv pip compile -q --universal --python-version 3.10 --no-header --no-annotate \
	--no-emit-index-url pyproject.toml
lock: $(DEV_INSTALLED) ## Resolve the pinned requirements anew
	$(COMPILE) --upgrade --extra dev --extra train --extra gcp --extra aws --extra azure -o requirements-dev.txt
	$(COMPILE) --extra train -c requirements-dev.txt -o requirements.txt
	$(COMPILE) --extra gcp --extra aws --extra azure -c requirements-dev.txt -o requirements-cloud.txt

clean: flink-down ## Remove what this Makefile has made
	rm -rf $(VENV) .venv-peers build dist *.egg-info .flink .spark .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo "make: needs Python 3.10 to 3.13; name one, as in PYTHON=python3.12" >&2; exit 2; }
	@echo "setting up $(VENV) (once, a few minutes)"
	@$(PYTHON) -m venv $(VENV) || { echo "make: python3 has no venv (Debian: install python3-venv)" >&2; exit 2; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(CLOUD_INSTALLED): requirements-cloud.txt $(INSTALLED)
	@echo "adding to $(VENV) what buckets and Dataflow need (once, a few minutes)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-cloud.txt
	@touch $@

$(DEV_INSTALLED): requirements-dev.txt $(INSTALLED)
	@echo "adding to $(VENV) what tests and other tools need (once, a few minutes)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
