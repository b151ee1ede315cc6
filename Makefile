# Every target is enough on its own on a Debian 12 with rust, gcc and make.
.PHONY: help deps kernel programs test demo bench check

help:
	@echo 'make demo    boot a machine, run the compositor, capture it, leave the pictures in target/demo/'
	@echo 'make test    everything that can be tested (the first time builds a kernel and downloads programs)'
	@echo 'make bench   the cost of capture for 1, 2, 4 and 8 clients'
	@echo 'make check   formatting and lints'
	@echo 'make deps    install the packages that are missing'
	@echo 'make kernel  build the test kernel and keep it in the cache'
	@echo 'make programs  download newer capture programs for the tests into the cache (200 MB)'

deps:
	@tests/machine/deps.sh

kernel: deps
	@tests/machine/kernel.sh

programs: deps
	@tests/machine/programs.sh

test: deps kernel programs
	cargo test

demo: deps kernel
	cargo run --release --example demo

bench: deps kernel
	cargo run --release --example bench

check: deps
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
