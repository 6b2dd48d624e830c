# Everything a person does with this repository. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

.PHONY: help build test lint deny

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## install what building needs, then build
	@scripts/deps build
	cargo build --locked --workspace

test: ## install what the tests need, then run every test
	@scripts/deps build run test
	cargo test --locked --workspace

lint: ## formatting and clippy, warnings denied
	@scripts/deps build
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

deny: ## licences and sources of the dependencies (installs cargo-deny if it is missing)
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo fetch --locked
	cargo deny --offline check licenses bans sources
