# Every target is enough on its own on a Debian 12 with rust, gcc and make.
.PHONY: help deps kernel test demo bench check

help:
	@echo 'make demo    boot a machine, run the compositor, capture it, leave the pictures in target/demo/'
	@echo 'make test    everything that can be tested (the first time builds a kernel, some minutes)'
	@echo 'make bench   the cost of capture for 1, 2, 4 and 8 clients'
	@echo 'make check   formatting and lints'
	@echo 'make deps    install the packages that are missing'
	@echo 'make kernel  build the test kernel and keep it in the cache'

deps:
	@tests/machine/deps.sh

kernel: deps
	@tests/machine/kernel.sh

test: deps kernel
	cargo test

demo: deps kernel
	cargo run --release --example demo

bench: deps kernel
	cargo run --release --example bench

check: deps
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
