# The commands of this project. CI runs the same ones.
SHELL := /bin/bash
target := $(or $(CARGO_TARGET_DIR),target)
coracle := $(target)/release/coracle
cargo := cargo --locked
sudo := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

# The build of the etcd client compiles etcd's .proto files.
.PHONY: protoc
protoc:
	@if [ -z "$$PROTOC" ] && ! { command -v protoc && [ -e /usr/include/google/protobuf/descriptor.proto ]; } >/dev/null; then \
	  command -v apt-get >/dev/null || { echo "protoc and its include files are missing: install the protobuf compiler" >&2; exit 1; }; \
	  $(sudo) apt-get install -y -q --no-install-recommends protobuf-compiler libprotobuf-dev || \
	  { $(sudo) apt-get update -q && $(sudo) apt-get install -y -q --no-install-recommends protobuf-compiler libprotobuf-dev; }; fi

.PHONY: build
build: protoc ## Build the release binaries
	$(cargo) build --release --bins

.PHONY: up
up: protoc ## Build, then start a one-node cluster and point kubectl at it
	$(cargo) build --release -p coracle
	$(sudo) $(coracle) up

.PHONY: down
down: ## Stop the cluster; what is stored stays
	$(sudo) $(coracle) down

.PHONY: reset
reset: ## Remove the cluster and everything that it left on this machine
	$(sudo) $(coracle) reset

.PHONY: install
install: protoc ## Put coracle into /usr/local/bin
	$(cargo) build --release -p coracle
	$(sudo) install -m 755 $(coracle) /usr/local/bin/coracle

.PHONY: uninstall
uninstall: ## Remove the cluster and coracle itself
	if command -v coracle >/dev/null; then $(sudo) coracle reset; fi
	$(sudo) rm -f /usr/local/bin/coracle

.PHONY: lint
lint: protoc ## Formatting, clippy and documentation, warnings as errors
	cargo fmt --check
	$(cargo) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" $(cargo) doc --workspace --no-deps --quiet

# Facts of Kubernetes 1.36 that parity tests read where they are at hand.
export KUBERNETES_FACTS ?= $(wildcard $(abspath ../shared/kubernetes-v1.36))

.PHONY: unit
unit: protoc ## Unit, property, contract and component tests
	$(cargo) test --workspace --exclude e2e

.PHONY: e2e
e2e: protoc ## Whole-cluster tests in lab namespaces (root), of a build with its assertions
	$(cargo) build -p coracle
	CORACLE_BINARY=$(target)/debug/coracle $(cargo) test -p e2e

.PHONY: test
test: lint unit e2e ## Everything that must pass

.PHONY: bench
bench: protoc ## Measure, compare with the budgets, add to the history
	$(cargo) build --release --bins
	$(sudo) $(target)/release/bench
