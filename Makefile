# volattach: what there is to do. `make` alone lists it.

CARGO_DENY = 0.20.2

prefix = /usr
profile = release

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.PHONY: deps
deps: ## install by apt what Debian 12 lacks to build and to test (sudo unless root)
	@tests/lab/deps.sh

# The tools that check are made once and kept outside the checkout, by version: a version is part of the check.
tools = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/volattach/tools
deny = $(tools)/cargo-deny-$(CARGO_DENY)/bin/cargo-deny
$(deny):
	@echo "lint: building cargo-deny $(CARGO_DENY) (once, 1-2 minutes)"
	CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --profile dev --root $(tools)/cargo-deny-$(CARGO_DENY) cargo-deny@$(CARGO_DENY)

.PHONY: lint
lint: deps $(deny) ## formatting, clippy, rustdoc, licences and sources of dependencies
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test '*' -- -D warnings # what has test = false, which --all-targets leaves out
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items --quiet
	$(deny) --log-level error --locked check bans licenses sources

# Compiled in target/, since the compiler leaves its files beside the sources.
selinux_module = target/selinux/volattach.pp
$(selinux_module): selinux/volattach.te selinux/volattach.fc selinux/volattach.if
	@mkdir -p $(@D)
	@cp $^ $(@D)
	@$(MAKE) --no-print-directory -C $(@D) -f /usr/share/selinux/devel/Makefile $(@F)

.PHONY: selinux
selinux: deps $(selinux_module) ## the SELinux module, in target/selinux, and a check of what it allows
	tests/selinux.sh $(selinux_module) target/selinux/check

.PHONY: try
try: deps ## the daemon and the command line at work on this machine, with a small guest; seconds
	@mkdir -p target # what libvirt complains of on a machine without its daemons is not the reader's concern
	@LIBVIRT_LOG_OUTPUTS=4:file:$(CURDIR)/target/try-libvirt.log cargo test --locked --quiet --test try

.PHONY: demo
demo: deps ## SMB volumes on a guest of a virtual compute node; minutes the first time
	@cargo test --locked --test lab -- --demo

.PHONY: lab-test
lab-test: deps ## tests in a virtual compute node; FILTER=text: those whose name contains it, SHUFFLE=seed: in another order
	@cargo test --locked --quiet --test lab -- $(if $(SHUFFLE),--shuffle $(SHUFFLE)) $(FILTER)

.PHONY: soak
soak: deps ## what takes too long for every run: a daemon killed a hundred times, guests that stand still, each byte of a journal; FILTER=text
	@VOLATTACH_FLIPS=50000 cargo test --locked --quiet --lib a_flipped_byte
	@cargo test --locked --quiet --test lab -- --soak $(FILTER)

.PHONY: oslo-test
oslo-test: deps ## random policies, decided here and by oslo.policy (from PyPI); CASES=number, SEED=number: other ones
	@VOLATTACH_OSLO_CASES=$(CASES) VOLATTACH_OSLO_SEED=$(SEED) \
	tests/policy/oslo.sh cargo test --locked --quiet --test oslo -- --nocapture

.PHONY: keystone-test
keystone-test: deps ## tokens, asked about at a real Keystone (from PyPI); FILTER=text: tests whose name contains it
	@tests/keystone/keystone.sh cargo test --locked --quiet --test keystone -- $(FILTER)

.PHONY: bench
bench: deps ## what attaches cost over libvirt itself and mount(2), connects beside os-brick's, calls beside many records
	@mkdir -p target # libvirt's own processes complain there, whatever its log is set to
	@status=0; \
	cargo bench --locked --quiet --no-run --bench scale --bench attach || exit 1; \
	for bench in scale attach; do \
		LIBVIRT_LOG_OUTPUTS=4:stderr cargo bench --locked --quiet --bench $$bench 2>target/bench-libvirt.log || \
			{ grep -E 'panicked|^error' -A 2 target/bench-libvirt.log; status=1; }; \
	done; \
	cargo test --locked --quiet --release --test lab -- --bench || status=1; \
	exit $$status

.PHONY: check
check: deps ## everything but the lab, in less than five minutes once it is built; ends in one line of verdict
	@tests/all.sh check

.PHONY: test
test: deps ## everything that is checked: lint, all tests, the lab; ends in one line of verdict
	@tests/all.sh

.PHONY: build
build: deps ## the optimised binaries, in target/release
	cargo build --locked --release

# `make build install` on a node; `make install DESTDIR=…` for a package; `profile=debug` takes what `cargo build` made.
.PHONY: install
install: ## binaries and systemd units beneath $(DESTDIR)/usr, a setting of multipathd, the SELinux module if it was made
	install -D -m 755 -t $(DESTDIR)$(prefix)/sbin target/$(profile)/volattachd target/$(profile)/volattachd-worker
	install -D -m 755 -t $(DESTDIR)$(prefix)/bin target/$(profile)/volattach
	install -D -m 644 -t $(DESTDIR)$(prefix)/lib/systemd/system systemd/volattachd.socket
	install -d $(DESTDIR)$(prefix)/lib/systemd/system
	sed 's,/usr/sbin,$(prefix)/sbin,' systemd/volattachd.service \
		>$(DESTDIR)$(prefix)/lib/systemd/system/volattachd.service
	install -D -m 644 systemd/volattach.sysusers.conf $(DESTDIR)$(prefix)/lib/sysusers.d/volattach.conf
	install -D -m 644 multipath/volattach.conf $(DESTDIR)/etc/multipath/conf.d/volattach.conf
	[ ! -e $(selinux_module) ] || install -D -m 644 -t $(DESTDIR)$(prefix)/share/selinux/packages $(selinux_module)
	install -d $(DESTDIR)$(prefix)/share/man/man1 $(DESTDIR)$(prefix)/share/man/man8
	target/$(profile)/volattach man $(DESTDIR)$(prefix)/share/man/man1
	target/$(profile)/volattachd --man $(DESTDIR)$(prefix)/share/man/man8
	install -d $(DESTDIR)$(prefix)/share/bash-completion/completions
	target/$(profile)/volattach completions bash >$(DESTDIR)$(prefix)/share/bash-completion/completions/volattach
