# Everything a person types is a target with a ## line, which `make help` prints.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DELETE_ON_ERROR:
.PHONY: help demo deps libs build cuda cuda-libtorch gpu-bundle test test-browser test-long parity golden bench lint lint-docker fmt dist clean FORCE

jobs := $(shell nproc 2>/dev/null || echo 2)
version := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: build ## build, then see a classifier forget 16 images (under 4 minutes the first time)
	bin/unlearn demo

deps: ## check compilers and headers; install what is missing when possible, else print the line to type
	@scripts/deps.sh

build: libs ## bin/unlearn, with its libraries under lib/
	go build -trimpath -ldflags '-X main.version=$(version)' -o bin/unlearn ./cmd/unlearn

libs: deps ## lib/*.so: libtorch, the bridge to it, and our operators; then plain `go build` and `go test` work
	@$(MAKE) -s -j$(jobs) lib/libtorchgo.so lib/libl2ul.so

cuda: libs ## lib/*_cuda.so: our CUDA half, for GPUs of compute capability 8.0 and later; needs no GPU
	@$(MAKE) -s -j$(jobs) lib/libtorchgo_cuda.so lib/libl2ul_cuda.so

cuda-libtorch: libs ## libtorch's CUDA half under lib/libtorch, to compute on a GPU (2.6 GB to fetch where there is none)
	torch=$$(scripts/libtorch.sh --cuda) && scripts/link-libtorch.sh "$$torch" lib/libtorch build cuda

gpu-bundle: libs cuda ## build/gpu-bundle.tar.gz, for scripts/gpu-check.sh on a machine with a GPU
	scripts/gpu-bundle.sh

test: libs build/emulation/libl2ul.so ## everything that must pass, with the race detector; about ten minutes on 2 cores
	go test -race -timeout 15m ./...
	go test -timeout 15m ./cmd/...

test-browser: build ## the HTML report in headless chromium; scripts/browser/axe.sh brings what checks accessibility
	cd scripts/browser && go vet ./... && go test -count=1 ./...

test-long: build ## what takes longer: every fuzz target for a minute, runs killed at random steps, large networks
	scripts/fuzz.sh 60
	L2UL_LONG=1 go test -timeout 90m ./...

parity: libs ## compare with Python's torch running live: the same bits (2.6 GB to fetch where there is none)
	python=$$(scripts/python.sh); L2UL_PYTHON=$$python go test -count=1 -timeout 30m $(parity_packages)

golden: ## make the reference values of scripts/golden again, with Python's torch
	python=$$(scripts/python.sh); $$python scripts/golden/make.py

bench: build ## measure against PyTorch; writes scripts/bench/results
	python=$$(scripts/python.sh); L2UL_PYTHON=$$python scripts/bench/run.sh

lint: libs ## golangci-lint, gofumpt, go vet, clang-format, shellcheck, and our own rules (scripts/lint)
	go test ./scripts/lint
	go vet ./...
	scripts/tool.sh golangci-lint run
	scripts/tool.sh golangci-lint fmt --diff
	scripts/tool.sh clang-format --dry-run -Werror $(c_files)
	scripts/tool.sh shellcheck --external-sources $(shell_files)

lint-docker: ## Dockerfile.cuda by BuildKit's linter and our own rules, without Docker (two minutes the first time)
	cd scripts/dockerlint && go vet ./... && go test -count=1 ./... # its cache does not see files outside the module

fmt: ## format Go, C and C++
	scripts/tool.sh golangci-lint fmt
	scripts/tool.sh clang-format -i $(c_files)

dist: build ## build/unlearn-VERSION.tar.gz: the program, its libraries, manual page and all licences; runs where it is unpacked
	scripts/dist.sh $(version)

clean: ## remove what was built; downloads stay in the cache
	rm -rf bin lib build

# The threads of libgomp spin while they wait unless told otherwise before it is loaded. Ours are told by
# torch/csrc/torchgo_env.c, but a Python beside them would mostly watch itself spin.
parity golden bench: export OMP_WAIT_POLICY := passive

# The packages with tests that run a Python beside them.
parity_packages = $$(git grep -l --untracked -e L2UL_PYTHON -e internal/reference -- '*_test.go' | xargs -n 1 dirname | sort -u | sed 's|^|./|')
c_files = $$(git ls-files --cached --others --exclude-standard '*.cc' '*.c' '*.h' '*.cu' '*.cuh')
shell_files = $$(git ls-files --cached --others --exclude-standard '*.sh' '*.sbatch') .ci/run

# ---- libtorch --------------------------------------------------------------------------------------------------------
# Found and linked again when the pin, $LIBTORCH or the scripts change, or when what was found has gone.

torch_path := $(shell cat build/libtorch.path 2>/dev/null)
torch_found := $(and $(torch_path),$(wildcard $(torch_path)/include/ATen),$(filter $(or $(LIBTORCH),pinned),$(shell cat build/libtorch.from 2>/dev/null)))

build/libtorch.path: scripts/common.sh scripts/libtorch.sh scripts/link-libtorch.sh third_party/libtorch.lock $(if $(torch_found),,FORCE)
	@mkdir -p build
	@torch=$$(scripts/libtorch.sh) && scripts/link-libtorch.sh "$$torch" lib/libtorch build && \
	  echo '$(or $(LIBTORCH),pinned)' >build/libtorch.from && echo "$$torch" >$@

# ---- our two libraries -----------------------------------------------------------------------------------------------
# -ffp-contract=off: the kernels' arithmetic is defined operation by operation, so the compiler may not fuse any.
# -Wno-psabi: vectors pass between functions that are always inlined, so their ABI does not matter.
common_flags := -std=c++20 -fPIC -fopenmp -D_GLIBCXX_USE_CXX11_ABI=1 -Wall -Wextra -Wno-psabi -MMD -MP
bridge_flags := -O2
kernel_flags := -O3 -ffp-contract=off
# The first path is for the bridge, which opens libl2ul.so; the second for what both link.
link_flags := -shared -fopenmp -Wl,--unresolved-symbols=ignore-in-shared-libs -Wl,-rpath,'$$ORIGIN:$$ORIGIN/libtorch/torch/lib'

# What needs CUDA is in files of its own.
objects = $(patsubst %.cc,build/%.o,$(filter-out %_cuda.cc,$(wildcard $(1)/*.cc)))
bridge_objects := $(call objects,torch/csrc)
kernel_objects := $(call objects,unlearn/kernels)

build/torch/csrc/%.o: torch/csrc/%.cc build/libtorch.path Makefile
	@mkdir -p $(@D)
	@echo compiling $< >&2
	$(CXX) $(common_flags) $(bridge_flags) @build/libtorch.cppflags -c -o $@ $<

build/unlearn/kernels/%.o: unlearn/kernels/%.cc build/libtorch.path Makefile
	@mkdir -p $(@D)
	@echo compiling $< >&2
	$(CXX) $(common_flags) $(kernel_flags) @build/libtorch.cppflags -c -o $@ $<

lib/libtorchgo_env.so: torch/csrc/torchgo_env.c Makefile
	@mkdir -p $(@D)
	$(CC) -O2 -fPIC -Wall -Wextra -shared -o $@.work $<
	@mv $@.work $@

# libtorchgo_env.so must come behind libgomp, so libtorch's own is named here; a system package's is where the compiler looks.
lib/libtorchgo.so: extra = -Wl,--no-as-needed $(or $(firstword $(wildcard lib/libtorch/torch/lib/libgomp*.so*)),-lgomp) -Llib -ltorchgo_env
lib/libtorchgo.so: $(bridge_objects) | lib/libtorchgo_env.so
lib/libl2ul.so: $(kernel_objects)
lib/libtorchgo.so lib/libl2ul.so:
	@mkdir -p $(@D)
	$(CXX) $(link_flags) -o $@.work $^ @build/libtorch.ldflags -ltorch_cpu -lc10 $(extra)
	@mv $@.work $@

# ---- their CUDA half -------------------------------------------------------------------------------------------------
# It compiles and links where there is neither GPU nor driver nor libtorch's own CUDA half. Linking needs the names of
# those libraries only: their symbols are looked up when ours are opened. -fmad=false is -ffp-contract=off of nvcc.

cuda_path := $(shell cat build/cuda.path 2>/dev/null)
cuda_found := $(and $(wildcard $(cuda_path)/bin/nvcc),$(filter $(or $(CUDA_HOME),pinned),$(shell cat build/cuda.from 2>/dev/null)))

build/cuda.path: scripts/common.sh scripts/wheels.sh scripts/nvcc.sh third_party/cuda.lock $(if $(cuda_found),,FORCE)
	@mkdir -p build
	@cuda=$$(scripts/nvcc.sh) && echo '$(or $(CUDA_HOME),pinned)' >build/cuda.from && echo "$$cuda" >$@

cuda = $(shell cat build/cuda.path)
cuda_flags := -std=c++20 -O3 -fmad=false -MMD -MP -Werror all-warnings -Xcompiler -fPIC,-Wall,-Wextra,-Werror \
  -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90,code=[sm_90,compute_90]

build/torch/csrc/torchgo_cuda.o build/unlearn/kernels/ops_cuda.o: build/%.o: %.cc build/libtorch.path build/cuda.path Makefile
	@mkdir -p $(@D)
	@echo compiling $< >&2
	$(CXX) $(common_flags) $(bridge_flags) -Werror @build/libtorch.cppflags -isystem $(cuda)/include -c -o $@ $<

build/unlearn/kernels/cuda.o: build/%.o: %.cu build/cuda.path Makefile
	@mkdir -p $(@D)
	@echo compiling $< >&2
	$(cuda)/bin/nvcc -ccbin $(CXX) $(cuda_flags) -c -o $@ $<

build/stubs/%.so:
	@mkdir -p $(@D)
	$(CXX) -shared -Wl,-soname,$(@F) -o $@ -x c++ /dev/null

lib/libtorchgo_cuda.so: build/torch/csrc/torchgo_cuda.o
lib/libl2ul_cuda.so: build/unlearn/kernels/ops_cuda.o build/unlearn/kernels/cuda.o lib/libl2ul.so
lib/libtorchgo_cuda.so lib/libl2ul_cuda.so: build/stubs/libtorch_cuda.so build/stubs/libc10_cuda.so
	$(CXX) $(link_flags) -Wl,--unresolved-symbols=ignore-all -Wl,--no-as-needed -o $@.work $(filter %.o,$^) \
	  $(if $(filter lib/libl2ul.so,$^),-Llib -ll2ul) $(filter build/stubs/%,$^) \
	  $(firstword $(wildcard $(cuda)/lib64/libcudart.so $(cuda)/lib/libcudart.so*)) @build/libtorch.ldflags -ltorch_cpu -lc10
	@mv $@.work $@

# The kernels run on the CPU, for tests on a machine without a GPU: the operators of libl2ul.so with the bodies of cuda.cu.
build/emulation/cuda.o: unlearn/kernels/cuda.cu Makefile | build/libtorch.path
	@mkdir -p $(@D)
	@echo compiling $< for the CPU >&2
	$(CXX) $(filter-out -fopenmp,$(common_flags)) $(kernel_flags) -Werror -Iunlearn/kernels/emulation -Dcuda_bodies=cpu_bodies -x c++ -c -o $@ $<

build/emulation/libl2ul.so: build/emulation/cuda.o $(filter-out %/cpu.o,$(kernel_objects))
	$(CXX) $(link_flags) -Wl,-rpath,'$$ORIGIN/../../lib/libtorch/torch/lib' -o $@.work $^ @build/libtorch.ldflags -ltorch_cpu -lc10
	@mv $@.work $@

-include $(bridge_objects:.o=.d) $(kernel_objects:.o=.d) $(wildcard build/*/*/*_cuda.d build/*/*/cuda.d build/emulation/*.d)
