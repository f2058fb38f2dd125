# Everything needs python3 (3.10 to 3.13) and make, and sets itself up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUTPUT ?= out/
INSTALLED := $(VENV)/.installed
DEV_INSTALLED := $(VENV)/.dev-installed

.DEFAULT_GOAL := help
.PHONY: help run-local run-dataflow test lint lock bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run-local: $(INSTALLED) ## Segment photos: INPUT=dir/ [OUTPUT=out/] [MODEL=dir/] [ARGS="--overlays"]
	@test -n "$(INPUT)" || { echo "make run-local: name the photos, as in INPUT=examples/" >&2; exit 2; }
	@$(BIN)/fcn-beam segment "$(INPUT)" --output "$(OUTPUT)" $(if $(MODEL),--model "$(MODEL)") $(ARGS)

# IMAGE is a container image built from the Dockerfile; without one, workers install everything
# themselves, which takes them about ten minutes.
DATAFLOW = $(BIN)/fcn-beam segment "$(INPUT)" --output "$(OUTPUT)" $(if $(MODEL),--model "$(MODEL)") \
	--runner DataflowRunner --project "$(PROJECT)" --region "$(REGION)" \
	--temp_location "$(OUTPUT:/=)/dataflow-tmp" --experiments no_use_multiple_sdk_containers \
	$(if $(IMAGE),--sdk_container_image "$(IMAGE)" --sdk_location container,--setup_file ./setup.py) $(ARGS)

run-dataflow: $(if $(DRY),,$(INSTALLED)) ## Segment on Dataflow: INPUT=gs://… OUTPUT=gs://… PROJECT=… REGION=… [IMAGE=…] [DRY=1]
	@test -n "$(INPUT)" -a -n "$(PROJECT)" -a -n "$(REGION)" || \
	  { echo "make run-dataflow: needs INPUT=gs://… OUTPUT=gs://… PROJECT=… REGION=…" >&2; exit 2; }
	@case "$(OUTPUT)" in gs://*) ;; *) echo "make run-dataflow: OUTPUT must be gs://…" >&2; exit 2;; esac
	$(if $(DRY),@echo '$(DATAFLOW)',$(DATAFLOW))

test: $(DEV_INSTALLED) ## Run the tests
	@$(BIN)/python -m pytest $(ARGS)

lint: $(DEV_INSTALLED) ## Check style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(DEV_INSTALLED) ## Measure: INPUT=dir/ [MODEL=dir/]
	@$(BIN)/python benchmarks/job.py "$(INPUT)" $(if $(MODEL),--model "$(MODEL)") $(ARGS)

lock: $(DEV_INSTALLED) ## Resolve the pinned requirements anew
	$(BIN)/uv pip compile -q --universal --upgrade --python-version 3.10 --no-header --no-annotate \
	  --no-emit-index-url pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile -q --universal --upgrade --python-version 3.10 --no-header --no-annotate \
	  --no-emit-index-url --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt

clean: ## Remove what this Makefile has made
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo "make: needs Python 3.10 to 3.13; name one, as in PYTHON=python3.12" >&2; exit 2; }
	@echo "setting up $(VENV) (once, a few minutes)"
	@$(PYTHON) -m venv $(VENV) || { echo "make: python3 has no venv (Debian: install python3-venv)" >&2; exit 2; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(DEV_INSTALLED): requirements-dev.txt $(INSTALLED)
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
