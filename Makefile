# SPDX-License-Identifier: MIT
# make run [PROMPT="..."] [DEVICE=cpu] [MODEL=file.gguf]   builds, fetches a small model, answers;
#                                                          DEVICE=opencl: with PoCL, which is
#                                                          installed, if there is no other device
# make check [GOLDEN=folder]                               builds and runs all tests
# make build, make clean                                   build/sobre and plugins; removes build/, build-*san/
PROMPT = What is the capital of France?
DEVICE = auto
MODEL =
GOLDEN ?=
export PROMPT DEVICE MODEL GOLDEN

run: build
	@case "$$DEVICE" in opencl*) ./scripts/setup.sh opencl ;; esac
	@model=$${MODEL:-$$(./scripts/fetch-model.sh)} && \
	    ./build/sobre run "$$model" --device "$$DEVICE" -p "$$PROMPT"

build: build/.setup
	@./scripts/build.sh build programs

build/.setup: scripts/setup.sh
	@./scripts/setup.sh build
	@mkdir -p build && touch $@

check:
	@./scripts/check.sh

clean:
	rm -rf build build-san build-tsan build-arm64

.PHONY: run build check clean
