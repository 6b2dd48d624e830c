# Everything a person does with this repository. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PREFIX ?= /usr/local
TARGET := $(or $(CARGO_TARGET_DIR),target)/debug

.PHONY: help build up down election test test-os soak bench bench-os lint deny install deb os

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## install what building needs, then build
	@scripts/deps build
	cargo build --locked --workspace

up: ## build, start the daemon, and run the guest book from unit files
	@scripts/deps build run
	cargo build --locked -p coracle -p coracle-shim
	cargo rustc --locked -p guestbook --bin guestbook -- -C target-feature=+crt-static
	@scripts/up $(TARGET)/coracle $(TARGET)/guestbook

down: ## stop all of it; images, volumes and units stay
	@[ ! -x $(TARGET)/coracle ] || scripts/down $(TARGET)/coracle

election: up ## besides, three instances that choose a leader through the store (examples/election)
	@scripts/deps election
	cargo build --locked --workspace --example election
	@scripts/election $(TARGET)/coracle $(TARGET)/examples/election

install: ## programs, man pages, completions and a systemd unit below PREFIX (/usr/local)
	@scripts/deps build
	cargo build --locked -p coracle -p coracle-shim
	@scripts/install $(TARGET) $(PREFIX) $(DESTDIR)

deb: ## a Debian package of the same, in target/deb (VERSION=0.1.0 or another)
	@scripts/deps build deb
	cargo build --locked -p coracle -p coracle-shim
	@scripts/deb $(TARGET) $(dir $(TARGET))deb $(VERSION)

os: ## the image for UEFI machines, in target/os: coracle.raw, coracle.qcow2, and update.tar for machines that have it
	@scripts/deps build os
	cargo build --locked -p coracle -p coracle-shim -p coracle-pid1
	@scripts/os $(TARGET) $(dir $(TARGET))os

test: ## install what the tests need, then run every test
	@scripts/deps build run test os
	@scripts/kernel $(dir $(TARGET))tmp/kernel
	@scripts/compose $(dir $(TARGET))tmp/compose
	@scripts/npm-etcd3 $(dir $(TARGET))tmp/npm-etcd3
	@scripts/debian $(dir $(TARGET))tmp/debian
	@scripts/test

test-os: ## the tests that have a machine with an operating system: updates of the image on one machine and on three, releases that fail, power cuts, its installation and its bytes, the Debian package on a Debian of its own
	@scripts/deps build deb run test os
	@scripts/kernel $(dir $(TARGET))tmp/kernel
	@scripts/debian-machine $(dir $(TARGET))tmp/debian-machine
	@scripts/test os

soak: ## the tests that have rounds, longer (ROUNDS=1000, FUZZ=50, MINUTES=10, MACHINES=5, REQUESTS=50000, KILLS=100)
	@scripts/deps build run test
	@scripts/debian $(dir $(TARGET))tmp/debian
	CORACLE_ROUNDS=$(or $(ROUNDS),1000) cargo test --locked --workspace --test lifecycle
	CORACLE_MINUTES=$(or $(MINUTES),10) cargo test --locked --workspace --test machines
	CORACLE_ROUNDS=$(or $(KILLS),100) cargo test --locked --workspace --test deploying -- --nocapture
	CORACLE_REQUESTS=$(or $(REQUESTS),50000) cargo test --locked --workspace --test traffic
	CORACLE_MACHINES=$(or $(MACHINES),5) CORACLE_MINUTES=$(or $(MINUTES),10) cargo test --locked --workspace --test soak -- --nocapture
	CORACLE_ROUNDS=$(or $(ROUNDS),1000) cargo test --locked --workspace --test differential
	CORACLE_ROUNDS=$(or $(ROUNDS),300) cargo test --locked --workspace --test linearizable
	CORACLE_ROUNDS=$(or $(ROUNDS),300) cargo test --locked --workspace --test crash
	CORACLE_ROUNDS=$(or $(ROUNDS),20000) cargo test --locked --workspace --test model
	CORACLE_ROUNDS=$(or $(ROUNDS),200000) cargo test --locked -p coracle-fleet --lib simulation
	CORACLE_FUZZ=$(or $(FUZZ),50) cargo test --locked --workspace --test fuzz --test tables

bench: ## docker, podman, runc and etcd beside us, the way to services, and simulated machines; writes docs/benchmarks.md
	@scripts/deps build run bench
	@scripts/debian $(dir $(TARGET))tmp/debian
	cargo build --locked -p coracle -p coracle-shim
	@scripts/bench $(TARGET)/coracle
	@scripts/bench-images $(TARGET)/coracle $(dir $(TARGET))tmp/debian
	cargo build --locked --workspace --example store-load
	@scripts/bench-store $(TARGET)/examples/store-load
	cargo build --locked --workspace --example steady --example load
	@scripts/bench-services $(TARGET)/coracle $(TARGET)/examples $(dir $(TARGET))tmp/debian
	cargo build --locked --workspace --example fleet-load
	@scripts/bench-fleet $(TARGET)/examples/fleet-load

bench-os: os ## the image beside a minimal Debian with systemd, docker.io and etcd, both booted by turns; writes its section of docs/benchmarks.md
	@scripts/deps test os bench
	cargo build --locked --workspace --examples
	@scripts/bench-os $(dir $(TARGET))os $(TARGET)/examples $(dir $(TARGET))tmp/bench-debian

lint: ## formatting and clippy, warnings denied
	@scripts/deps build election
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

deny: ## licences and sources of the dependencies (installs cargo-deny if it is missing)
	@command -v cargo-deny >/dev/null || CARGO_PROFILE_DEV_DEBUG=false cargo install --debug --locked cargo-deny
	cargo fetch --locked
	cargo deny --offline check licenses bans sources
