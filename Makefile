# One word per job, the same for people and for CI. `make help` lists them.
# Each word first installs what it lacks (scripts/setup says what, by name).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# `make demo ARGS=--once`
ARGS ?=
# The configuration files that are shipped; all of them must be valid.
CONFIGS := $(wildcard config/*.yaml)

.PHONY: help demo test interleavings soak fuzz check counts bench bench-check docs setup fmt lint rustdoc deps advisories configs

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

# The dev profile, so that `make demo` and `make test` share one build.
demo: ## Run the gateway in front of a stand-in task API; shows a start admitted and one refused
	@scripts/setup rust cc cmake
	cargo run --locked -- demo $(ARGS)

test: ## Run every test (starts its own redis-server; Python packages in target/venv, Node's in target/node)
	@scripts/setup rust cc cmake redis-server python3 python3-venv node npm
	cargo test --locked

interleavings: ## Try the locks in every order that a scheduler can think of (shuttle)
	@scripts/setup rust cc cmake
	cargo test --locked --features shuttle --test interleavings

# SOAK_STEPS=n, SOAK_REDIS_STEPS=n, SOAK_SEED=n; HOLDS_…: see tests/README.md
SOAK_STEPS ?= 1000000
SOAK_REDIS_STEPS ?= 100000
SOAK_SEED ?= $(shell date +%s)
soak: ## The long form of the tests that are about chance: a million steps of histories, starts at once, programs killed
	@scripts/setup rust cc cmake redis-server
	TOLLGATE_SOAK_STEPS=$(SOAK_STEPS) TOLLGATE_SOAK_REDIS_STEPS=$(SOAK_REDIS_STEPS) TOLLGATE_SOAK_SEED=$(SOAK_SEED) \
	    cargo test --locked --test ledger match_the_model -- --nocapture
	HOLDS_STARTS=$${HOLDS_STARTS:-10000} HOLDS_ROUNDS=$${HOLDS_ROUNDS:-20} HOLDS_KILLS=$${HOLDS_KILLS:-60} \
	    cargo test --locked --test blackbox -- --test-threads=1 holds_exact holds_kill

# FUZZ_SECONDS=n for each target; see fuzz/README.md
FUZZ_SECONDS ?= 60
fuzz: ## Throw made-up bytes at the readers of deliveries (libFuzzer), each target for a minute
	@scripts/setup rust cc c++ cmake python3
	fuzz/run $(FUZZ_SECONDS)

check: fmt lint rustdoc deps advisories configs bench-check ## Formatting, lints, rustdoc, dependencies, shipped configurations

fmt:
	cargo fmt --check

lint:
	@scripts/setup rust cc cmake
	cargo clippy --locked --all-targets -- -D warnings
	cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null # its lock file fits

rustdoc:
	@scripts/setup rust cc cmake
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

deps: ## Licences, sources, bans and duplicates of the dependencies (deny.toml)
	@scripts/setup rust cc cargo-deny
	scripts/deny check licenses sources bans

advisories: ## Known vulnerabilities of the dependencies, where the database can be reached
	@scripts/setup rust cc cargo-deny
	scripts/advisories

configs: ## Validate every shipped configuration file
	@scripts/setup rust cc cmake
	$(if $(CONFIGS),,$(error no config/*.yaml found))
	cargo run --locked --quiet -- check $(CONFIGS)

# UPDATE=1: what is measured becomes the bound. The tests hold the allocations.
counts: ## Count the instructions of each step and of whole requests; fails when one got dearer than benches/counts.toml allows
	@scripts/setup rust cc cmake python3 redis-server nginx valgrind openssl
	python3 bench/counts.py $(if $(UPDATE),--update) $(ARGS)
	$(if $(UPDATE),UPDATE_COUNTS=1 cargo test --locked --test allocations)

# QUICK=1, ROUNDS=n, SECONDS_EACH=n, MEMORY_MINUTES=n, ARGS="--only latency": see bench/README.md
bench: ## Load test against bare Pingora, nginx with Lua and Envoy: report.html with verdicts and charts (QUICK=1: under five minutes)
	@scripts/setup rust cc cmake python3 python3-venv redis-server nginx nginx-lua nginx-lua-redis wrk h2load valgrind openssl oha envoy
	cargo build --locked --release --bin tollgate --example bare_proxy
	python3 bench/run.py $(if $(QUICK),--quick) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	    $(if $(SECONDS_EACH),--seconds $(SECONDS_EACH)) $(if $(MEMORY_MINUTES),--after-minutes $(MEMORY_MINUTES)) $(ARGS)

bench-check: ## The load test's own arithmetic: quartiles, verdicts, reading what generators print (no load)
	@scripts/setup python3
	python3 -m unittest discover --start-directory bench/tests --top-level-directory bench

docs: ## Build the API documentation
	@scripts/setup rust cc cmake
	cargo doc --locked --no-deps --document-private-items
	@echo "target/doc/tollgate/index.html"

setup: ## Install everything that any of the above needs
	scripts/setup rust cc cmake redis-server python3 python3-venv node npm nginx nginx-lua nginx-lua-redis wrk h2load valgrind openssl oha envoy cargo-deny
