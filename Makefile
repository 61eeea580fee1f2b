# SPDX-License-Identifier: MIT
# make run [PROMPT="..."] [DEVICE=cpu] [MODEL=file.gguf]   builds, fetches a small model, answers
# make check [GOLDEN=folder]                               builds and runs all tests
# make build, make clean                                   build/sobre; removes build/, build-*san/
PROMPT = What is the capital of France?
DEVICE = auto
MODEL =
GOLDEN ?=
export PROMPT DEVICE MODEL GOLDEN

run: build
	@model=$${MODEL:-$$(./scripts/fetch-model.sh)} && \
	    ./build/sobre run "$$model" --device "$$DEVICE" -p "$$PROMPT"

build: build/.setup
	@./scripts/build.sh build sobre

build/.setup: scripts/setup.sh
	@./scripts/setup.sh build
	@mkdir -p build && touch $@

check:
	@./scripts/check.sh

clean:
	rm -rf build build-san build-tsan

.PHONY: run build check clean
