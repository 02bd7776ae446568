# cachetag: everything here sets up what it needs. `make help` lists the targets.

# The PostgreSQL to build for and to test with: the path of its pg_config.
PG_CONFIG ?= pg_config
# Where cargo lives when the shell does not know.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
export PG_CONFIG

# Evaluated when a recipe runs: before `setup` there may be no pg_config.
PG_CONFIG_PATH = $$(command -v $(PG_CONFIG))
PG_FEATURE = pg$$($(PG_CONFIG) --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
EXTENSION = --package cachetag --no-default-features --features $(PG_FEATURE)
WITH_PG = PGRX_PG_CONFIG_PATH=$(PG_CONFIG_PATH)

.PHONY: help demo test regression checker bench build install setup lint fmt clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "make %-10s %s\n", $$1, $$2 }'

demo: install ## a private PostgreSQL and Redis, a shop, and what invalidation does to its cache
	@demo/story.sh

test: install ## all tests, on private servers
	@scripts/test.sh

regression: install ## PostgreSQL's own regression tests, every table tracked, every statement captured
	@cargo build --quiet --release --package cachetag-tests --bin regression
	@scripts/regression.sh

bench: install ## the benchmarks, on private servers
	@scripts/setup.sh bench
	cargo run --quiet --release --package cachetag-tests --bin bench -- $(ARGS)

checker: install ## hurts the system in every way and bounds the rate of wrong hits (ARGS="--reads 100_000_000"; ARGS=--help)
	cargo run --quiet --release --package cachetag-tests --bin checker -- $(ARGS)

build: setup ## the daemon and the extension, optimised
	@echo "building the daemon and the extension (some minutes the first time)"
	@cargo build --quiet --release --package cachetag-invalidator
	@$(WITH_PG) cargo build --quiet --release $(EXTENSION)

install: build ## the extension into the PostgreSQL of PG_CONFIG
	@scripts/install-extension.sh $(PG_CONFIG_PATH)

setup: ## packages that are missing (Debian, as root)
	@scripts/setup.sh

lint: setup ## formatting and lints, warnings are errors
	cargo fmt --all -- --check
	cargo clippy --quiet --release --all-targets -- -D warnings
	$(WITH_PG) cargo clippy --quiet --release $(EXTENSION) --all-targets -- -D warnings

fmt: ## format the sources
	cargo fmt --all

clean: ## remove what was built
	cargo clean
