# The whole interface: run, test, bench, lint (see help). CI runs the same.
#
# Cargo's own settings decide where cargo builds: CARGO_TARGET_DIR is honoured. No RUSTFLAGS here or in the environment:
# the xtask alone sets those the wasm needs.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

export PATH := $(HOME)/.cargo/bin:$(PATH)
unexport RUSTFLAGS CARGO_ENCODED_RUSTFLAGS

# Files and data sets beside the clone, for the tests that want them; those say so and skip where it is not there.
export AUTOANNOTATOR_SHARED ?= $(abspath ../shared)

TARGET := $(if $(CARGO_TARGET_DIR),$(abspath $(CARGO_TARGET_DIR)),$(CURDIR)/target)
BINARY := $(TARGET)/release/autoannotator
STAMPS := .make
NPM := npm ci --no-audit --no-fund --loglevel=error
PAGE_SOURCES = $(shell find www -type f -not -path '*/node_modules/*' -not -path '*/dist/*' -not -path '*/tests/*' 2>/dev/null)
PORT ?= 8080
# What outlives the clone.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/autoannotator
# What the benches install and make of their peers.
BENCH := $(CACHE)/bench
# What the test of the API installs.
API := $(CACHE)/api
ARGS ?=

.PHONY: help run test test-burn bench bench-venv bench-web bench-gpu bench-native bench-train bench-serve evaluate demo-controller fuzz lint deps wasm page binary pull chromium firefox emulator vulkan nginx wrk test-rust test-api test-proxy test-neon test-wasm test-www test-page test-edge package package-burn page-burn clean

help: ## Show this
	@echo 'autoannotator: small language models vote on texts; only hard samples go to a reviewer.'
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

run: binary page pull ## Build everything, bring the models and serve the page (PORT=8080)
	@exec $(BINARY) serve --port $(PORT)

# What test-edge measures is measured once here.
test: ROUNDS := $(or $(ROUNDS),1)
test: test-rust test-api test-proxy test-neon test-wasm test-www test-page test-edge ## Run every test: Rust, the API against its document, the server behind nginx, the ARM kernels under emulation, the wasm in node, the page's own, the page in Chromium, the npm package in every runtime

test-edge: package pull chromium firefox bench-venv $(STAMPS)/npm-edge $(STAMPS)/npm-peer ## Test the npm package in every runtime it is for, and measure it against transformers.js (ROUNDS=3, TEXTS=500; TABLES=1 writes its README's tables)
	export CHROMIUM="$$(command -v "$${CHROMIUM:-chromium}" chromium-browser google-chrome | head -1)"; \
	export AUTOANNOTATOR_BINARY=$(BINARY) AUTOANNOTATOR_FIGURES="$$(mktemp)"; \
	export ROUNDS=$(or $(ROUNDS),3) TEXTS=$(or $(TEXTS),500) TABLES=$(TABLES); \
	trap 'rm -f "$$AUTOANNOTATOR_FIGURES"' EXIT; \
	(cd wasm-tests/edge && node --test --test-concurrency=2 *.test.mjs) && node wasm-tests/edge/bench.mjs

# Where Python cannot make one, the comparison with transformers.js is left out, and says so.
bench-venv:
	@if python3 -c 'import ensurepip, venv' 2>/dev/null; then $(MAKE) --no-print-directory $(BENCH)/venv/.ready; fi

bench: ## Run the benches
	cargo bench --locked

bench-web: page pull chromium $(BENCH)/venv/.ready $(STAMPS)/npm-wasm-tests $(STAMPS)/npm-bench ## Measure the wasm engine against onnxruntime-web and transformers.js (ARGS=--help)
	export CHROMIUM="$$(command -v "$${CHROMIUM:-chromium}" chromium-browser google-chrome | head -1)"; \
	AUTOANNOTATOR_BINARY=$(BINARY) node wasm-tests/bench/bench.mjs $(ARGS)

bench-gpu: page pull chromium $(BENCH)/venv/.ready $(STAMPS)/npm-wasm-tests $(STAMPS)/npm-bench ## Measure the WGSL engine against onnxruntime-web's WebGPU provider and burn-wgpu (ARGS=--help)
	cargo xtask wasm --variant burn
	export CHROMIUM="$$(command -v "$${CHROMIUM:-chromium}" chromium-browser google-chrome | head -1)"; \
	node wasm-tests/bench/gpu.mjs $(ARGS)

bench-native: pull $(BENCH)/venv/.ready ## Measure the native engine against onnxruntime (ARGS=--help)
	cargo build --release --locked --example bench_native
	$(BENCH)/venv/bin/python wasm-tests/bench/native.py --binary $(TARGET)/release/examples/bench_native $(ARGS)

bench-train: pull $(BENCH)/torch/.ready ## Measure the trainer against PyTorch on the CPU; installs PyTorch, 7 GB (ARGS=--help)
	cargo build --release --locked --example bench_train
	$(BENCH)/torch/bin/python wasm-tests/bench/train.py --binary $(TARGET)/release/examples/bench_train $(ARGS)

bench-serve: wrk $(BENCH)/litellm/.ready ## Measure the review proxy against a bare forwarder and LiteLLM (ARGS=--quick, ARGS=--help)
	cargo build --release --locked --bin autoannotator --example bench_stub --example bench_forwarder --example bench_load
	$(BENCH)/litellm/bin/python benches/serve/bench.py --binary $(BINARY) --examples $(TARGET)/release/examples \
	  --litellm $(BENCH)/litellm/bin/litellm $(ARGS)

DATA ?= $(AUTOANNOTATOR_SHARED)/data
QUICK ?=
evaluate: pull ## Run the paper's protocol on labelled sets (DATA=FOLDER; QUICK=1 for a small run; ARGS=--help)
	cargo xtask evaluate --binary $(BINARY) --data "$(DATA)" --out $(TARGET)/evaluate $(if $(QUICK),--quick) \
	  $(if $(wildcard $(DATA)/../llm/replies),--replies $(DATA)/../llm/replies) $(ARGS)

demo-controller: package pull $(STAMPS)/npm-edge $(BENCH)/tfidf/.ready ## Plan a task with a stub LLM and a local hub, label a file, run a worker, start a task cold (DATA=FOLDER)
	cargo build --release --locked --bin autoannotator --example stub_hub --example stub_llm
	cargo xtask demo-controller --binary $(BINARY) --data "$(DATA)" --out $(TARGET)/demo-controller \
	  --python $(BENCH)/tfidf/bin/python --home "$${AUTOANNOTATOR_HOME:-$(CACHE)}" $(ARGS)

fuzz: ## Feed the parsers with what libFuzzer makes up (EACH=60 seconds for each; ARGS='--target rows')
	cargo xtask fuzz --seconds $(or $(EACH),60) --corpus $(CACHE)/fuzz --build $(TARGET)/fuzz $(ARGS)

lint: page $(STAMPS)/npm-pkg ## Check format, lints, documentation, licences and types
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	cargo clippy --release --locked --all-targets --features gpu-burn -- -D warnings
	cargo xtask clippy-wasm
	cargo doc --release --locked --no-deps --workspace
	cargo xtask licences
	@if command -v cargo-deny >/dev/null; then cargo deny check; else echo 'cargo-deny is not installed: its advisories are not checked'; fi
	npm --prefix www run check
	npm --prefix pkg run check
	@echo 'lint: passed'

clean: ## Remove what was built (not the cache of models)
	cargo clean
	rm -rf $(STAMPS) {pkg,pkg-burn}/{wasm,dist} www/dist {www,xtask,pkg,pkg-burn,wasm-tests,wasm-tests/bench,wasm-tests/edge,wasm-tests/edge/peer}/node_modules

# --- parts ---

deps: $(STAMPS)/tools $(STAMPS)/npm-xtask $(STAMPS)/npm-www $(STAMPS)/npm-wasm-tests

$(STAMPS)/tools: rust-toolchain.toml
	@for tool in cargo node npm python3; do command -v $$tool >/dev/null || { \
	  echo "$$tool is missing: install Rust from https://rustup.rs, Node.js 20.19 or later from https://nodejs.org, Python 3 from your system"; exit 1; }; done
	@node -e 'const [a, b] = process.versions.node.split("."); if (a < 20 || (a == 20 && b < 19)) { console.error("Node.js " + process.version + " is too old: 20.19 or later is needed"); process.exit(1); }'
	@# What rust-toolchain.toml asks for; a toolchain that was there before may lack the target or clippy.
	@if command -v rustup >/dev/null; then \
	  rustup show active-toolchain >/dev/null 2>&1 || rustup toolchain install; \
	  rustup target add wasm32-unknown-unknown; rustup component add clippy rustfmt; \
	fi
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/npm-%: %/package-lock.json $(STAMPS)/tools
	cd $* && $(NPM)
	@mkdir -p $(STAMPS) && touch $@

# These two are large: they are installed once for all clones.
$(STAMPS)/npm-edge: wasm-tests/edge/package-lock.json $(STAMPS)/tools
	$(call install,wasm-tests/edge,)

$(STAMPS)/npm-peer: wasm-tests/edge/peer/package-lock.json $(STAMPS)/tools
	$(call install,wasm-tests/edge/peer,--ignore-scripts)

define install
	@lock="$$(sha256sum $(1)/package-lock.json)"; to="$(CACHE)/npm-$(notdir $(1))/$${lock:0:16}"; \
	if ! [ -e "$$to/.ready" ]; then \
	  rm -rf "$$to"; mkdir -p "$$to"; cp $(1)/package.json $(1)/package-lock.json "$$to"; \
	  (cd "$$to" && $(NPM) $(2)); touch "$$to/.ready"; \
	fi; \
	rm -rf $(1)/node_modules; ln -s "$$to/node_modules" $(1)/node_modules
	@mkdir -p $(STAMPS) && touch $@
endef

$(STAMPS)/npm-bench: wasm-tests/bench/package-lock.json $(STAMPS)/tools
	cd wasm-tests/bench && $(NPM) --ignore-scripts
	@touch $@

$(BENCH)/venv/.ready: wasm-tests/bench/requirements.txt | $(STAMPS)/tools
$(BENCH)/torch/.ready: wasm-tests/bench/requirements-train.txt | $(STAMPS)/tools
$(BENCH)/litellm/.ready: benches/serve/requirements.txt | $(STAMPS)/tools
$(BENCH)/tfidf/.ready: benches/controller/requirements.txt | $(STAMPS)/tools
$(API)/.ready: tests/api/requirements.txt | $(STAMPS)/tools
$(BENCH)/venv/.ready $(BENCH)/torch/.ready $(BENCH)/litellm/.ready $(BENCH)/tfidf/.ready $(API)/.ready:
	python3 -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# Cargo knows best whether the module is up to date; the xtask touches its output only where it changes.
wasm: $(STAMPS)/tools $(STAMPS)/npm-xtask
	cargo xtask wasm

WASM := pkg/wasm/plain/autoannotator_bg.wasm pkg/wasm/relaxed/autoannotator_bg.wasm pkg/wasm/gpu/autoannotator_bg.wasm

$(WASM): wasm ;

# The npm package, built; `npm pack` in pkg/ makes its tarball.
package: $(WASM) $(STAMPS)/npm-pkg
	npm --prefix pkg run build

# The package on burn-wgpu, whose module takes long to build: once it is there, test-edge tests it too.
page-burn: page ## Put burn-wgpu beside the page, which loads it once it meets a model that the GPU kernels do not know
	cargo xtask wasm --variant burn
	mkdir -p www/dist/wasm/burn
	cp pkg/wasm/burn/autoannotator{.js,_bg.wasm} www/dist/wasm/burn/

package-burn: package $(STAMPS)/npm-pkg-burn
	cargo xtask wasm --variant burn
	rm -rf pkg-burn/wasm && mkdir pkg-burn/wasm
	cp pkg/wasm/burn/autoannotator{_bg.wasm,.d.ts,.js,.factory.js,.factory.d.ts} pkg-burn/wasm
	npm --prefix pkg-burn run build

page: www/dist/index.html

www/dist/index.html: $(WASM) $(STAMPS)/npm-www $(PAGE_SOURCES)
	npm --prefix www run build
	@touch $@

binary: $(STAMPS)/tools
	cargo build --release --locked

# The base weights (each file against its hash) and what the browser downloads; both do nothing where all is there.
pull: binary
	$(BINARY) pull
	$(BINARY) pack

# --- tests ---

# The GPU engine's tests take any Vulkan adapter; Mesa's in software is one.
test-rust: pull vulkan
	if ls $(LAVAPIPE) >/dev/null 2>&1; then export AUTOANNOTATOR_GPU=required; fi; cargo test --release --locked

# The server under the requests that schemathesis makes of its OpenAPI document.
test-burn: pull vulkan package-burn chromium firefox $(STAMPS)/npm-edge ## Test burn-wgpu natively and in the browsers; what it is built of takes most of an hour the first time
	AUTOANNOTATOR_GPU=required cargo test --release --locked --features gpu-burn --test gpu --test reference --test architectures --test train
	export CHROMIUM="$$(command -v "$${CHROMIUM:-chromium}" chromium-browser google-chrome | head -1)"; \
	export AUTOANNOTATOR_BINARY=$(BINARY); cd wasm-tests/edge && node --test --test-name-pattern=burn browsers.test.mjs package.test.mjs

test-api: $(STAMPS)/tools
	@if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo 'test-api: skipped; Python cannot make a virtual environment (Debian: sudo apt-get install python3-venv)'; exit 0; fi; \
	$(MAKE) --no-print-directory $(API)/.ready; \
	SCHEMATHESIS=$(API)/bin/schemathesis cargo test --release --locked --test serve_process -- --ignored document

test-proxy: nginx $(STAMPS)/tools
	@if ! { command -v nginx && command -v openssl; } >/dev/null; then \
	  echo 'test-proxy: skipped; it needs nginx and openssl (Debian: sudo apt-get install nginx-light openssl)'; exit 0; fi; \
	cargo test --release --locked --test serve_process -- --ignored deploy

# On another machine than an ARM one, under emulation. Left out where nothing can be installed.
ARM := aarch64-unknown-linux-gnu
test-neon: emulator
	@if [ "$$(uname -sm)" != 'Linux x86_64' ]; then echo 'test-neon: the ARM kernels are emulated on x86-64 Linux only'; exit 0; fi; \
	if ! { command -v qemu-aarch64-static && command -v aarch64-linux-gnu-gcc && command -v rustup; } >/dev/null; then \
	  echo 'test-neon: skipped; it needs rustup and Debian'"'"'s qemu-user-static, gcc-aarch64-linux-gnu and libc6-dev-arm64-cross'; exit 0; fi; \
	rustup target add $(ARM); \
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER='qemu-aarch64-static -L /usr/aarch64-linux-gnu' \
	cargo test --release --locked --target $(ARM) --no-default-features --test parity --test reference -- --skip any_number_of_threads

test-wasm: wasm $(STAMPS)/npm-wasm-tests
	npm --prefix wasm-tests run node

test-www: page
	npm --prefix www test

test-page: page pull chromium firefox vulkan $(STAMPS)/npm-wasm-tests
	export CHROMIUM="$$(command -v "$${CHROMIUM:-chromium}" chromium-browser google-chrome | head -1)"; \
	AUTOANNOTATOR_BINARY=$(BINARY) npm --prefix wasm-tests run page

chromium:
	@if command -v chromium chromium-browser google-chrome "$${CHROMIUM:-}" >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium; \
	else \
	  echo 'The page test needs Chromium: install it (Debian: sudo apt-get install chromium) or set CHROMIUM to its path.'; exit 1; \
	fi

# Left out where it cannot be installed: the tests say so.
firefox:
	@if command -v firefox-esr "$${FIREFOX:-}" >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends firefox-esr; \
	fi

wrk:
	@if command -v wrk >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends wrk; \
	else \
	  echo 'bench-serve needs wrk: install it (Debian: sudo apt-get install wrk).'; exit 1; \
	fi

nginx:
	@if ! { command -v nginx && command -v openssl; } >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends nginx-light openssl; \
	fi

LAVAPIPE := /usr/share/vulkan/icd.d/lvp_icd*.json
vulkan:
	@if ! ls $(LAVAPIPE) >/dev/null 2>&1 && [ "$$(uname -s)" = Linux ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends mesa-vulkan-drivers libvulkan1; \
	fi

emulator:
	@if [ "$$(uname -sm)" = 'Linux x86_64' ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && ! { command -v qemu-aarch64-static && command -v aarch64-linux-gnu-gcc; } >/dev/null; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
	    qemu-user-static gcc-aarch64-linux-gnu libc6-dev-arm64-cross; \
	fi
