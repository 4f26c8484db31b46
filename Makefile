# volattach: what there is to do. `make` alone lists it.

CARGO_DENY = 0.20.2

prefix = /usr
sysconfdir = /etc
unitdir = $(prefix)/lib/systemd/system

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.PHONY: deps
deps: ## install by apt what Debian 12 lacks to build and to test (sudo unless root)
	@tests/lab/deps.sh

# The tools that check are built once and kept in target/: their versions are part of the check.
deny = target/tools/cargo-deny-$(CARGO_DENY)/bin/cargo-deny
$(deny):
	@echo "lint: building cargo-deny $(CARGO_DENY) (once, 1-2 minutes)"
	cargo install --quiet --locked --profile dev --root target/tools/cargo-deny-$(CARGO_DENY) cargo-deny@$(CARGO_DENY)

.PHONY: lint
lint: deps $(deny) ## formatting, clippy, rustdoc, licences and sources of dependencies
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items --quiet
	$(deny) --log-level error --locked check bans licenses sources

.PHONY: test
test: deps ## everything that is checked: lint, all tests, the lab; ends in one line of verdict
	@tests/all.sh
