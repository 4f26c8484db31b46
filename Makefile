# volattach: what there is to do. `make` alone lists it.

CARGO_DENY = 0.20.2
CARGO_DEB = 3.8.0
CARGO_GENERATE_RPM = 0.21.1

prefix = /usr
profile = release

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.PHONY: deps
deps: ## install by apt what Debian 12 lacks to build and to test (sudo unless root)
	@tests/lab/deps.sh

# The tools that check and package are made once and kept outside the checkout, by version: a version is part of the check.
tools = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/volattach/tools
deny = $(tools)/cargo-deny-$(CARGO_DENY)/bin/cargo-deny
cargo_deb = $(tools)/cargo-deb-$(CARGO_DEB)/bin/cargo-deb
cargo_generate_rpm = $(tools)/cargo-generate-rpm-$(CARGO_GENERATE_RPM)/bin/cargo-generate-rpm
$(deny) $(cargo_deb) $(cargo_generate_rpm): $(tools)/%:
	@echo "building $(@F) of $(firstword $(subst /, ,$*)) (once, 1-2 minutes)"
	CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --profile dev --root $(tools)/$(firstword $(subst /, ,$*)) \
		$(@F)@$(patsubst $(@F)-%,%,$(firstword $(subst /, ,$*)))

.PHONY: lint
lint: deps $(deny) ## formatting, clippy, rustdoc, licences and sources of dependencies
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test '*' -- -D warnings # what has test = false, which --all-targets leaves out
	cargo clippy --locked --features otlp --bins -- -D warnings # 16 s of a processor, once the exporter is built
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
soak: deps ## what takes too long for every run: a daemon killed a hundred times, guests that stand still, each byte of a journal, a node that enforces SELinux; FILTER=text
	@VOLATTACH_FLIPS=50000 cargo test --locked --quiet --lib a_flipped_byte
	@tests/cinder/cinder.sh cargo test --locked --quiet --test lab -- --soak $(FILTER)

.PHONY: oslo-test
oslo-test: deps ## random policies, decided here and by oslo.policy (from PyPI); CASES=number, SEED=number: other ones
	@VOLATTACH_OSLO_CASES=$(CASES) VOLATTACH_OSLO_SEED=$(SEED) \
	tests/policy/oslo.sh cargo test --locked --quiet --test oslo -- --nocapture

.PHONY: rules-test
rules-test: ## the alert rules against their tests, by promtool (out of Debian's package, 19 MB once)
	@tests/prometheus/rules.sh

.PHONY: otlp-test
otlp-test: deps ## traces to a collector, by a build with the feature otlp
	cargo test --locked --quiet --features otlp --test daemon -- trace

.PHONY: keystone-test
keystone-test: deps ## tokens, asked about at a real Keystone (from PyPI); FILTER=text: tests whose name contains it
	@tests/keystone/keystone.sh cargo test --locked --quiet --test keystone -- $(FILTER)

.PHONY: python-test
python-test: deps ## the Python client (clients/python, by PyPI) and its example against the daemon; FILTER=test_daemon.Watches: those alone
	@cargo test --locked --quiet --no-run --test documentation # makes the programs too, of dependencies that are built for tests already
	@clients/python/tests/run.sh $(FILTER)

# 95 MB of packages for one program: not among what `make test` runs.
.PHONY: go-test
go-test: ## the example in Go (examples/go), built of Debian's packages, against the daemon
	@tests/lab/deps.sh golang-go golang-google-grpc-dev protobuf-compiler protoc-gen-go-1-3
	@cargo test --locked --quiet --no-run --test documentation # makes the programs too, of dependencies that are built for tests already
	@examples/go/build.sh target/go/attach_watch_detach
	@VOLATTACH_GO_EXAMPLE=$(CURDIR)/target/go/attach_watch_detach clients/python/tests/run.sh go_example.Go

.PHONY: cinder-test
cinder-test: deps ## volattach cinder beside a real Cinder and Keystone (from PyPI), each of its requests failed; FILTER=text: tests whose name contains it
	@tests/cinder/cinder.sh cargo test --locked --quiet --test cinder -- $(FILTER)

.PHONY: web-test
web-test: deps ## the web page in headless Chromium: pictures in target/web, keyboard, axe-core (from npm)
	@cargo test --locked --quiet --test page --no-run
	@tests/page/browser.sh "$$(cargo test --locked --test page --no-run 2>&1 | sed -n 's/.*(\(.*\))$$/\1/p')" target/web

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

# `make build install` on a node; `make install DESTDIR=…` for a package; `profile=debug` takes what `cargo build` made. What lies
# beneath dist/ lies there as it is installed, and a file that the node has in /etc already is its administrator's.
installed = install -D -m 644
.PHONY: install
install: ## binaries, systemd units, documentation and all of dist/ beneath $(DESTDIR); the SELinux module if it was made
	install -D -m 755 -t $(DESTDIR)$(prefix)/sbin target/$(profile)/volattachd target/$(profile)/volattachd-worker
	install -D -m 755 -t $(DESTDIR)$(prefix)/bin target/$(profile)/volattach
	$(installed) -t $(DESTDIR)$(prefix)/lib/systemd/system systemd/volattachd.socket
	sed 's,/usr/sbin,$(prefix)/sbin,' systemd/volattachd.service | \
		$(installed) /dev/stdin $(DESTDIR)$(prefix)/lib/systemd/system/volattachd.service
	find dist/usr -type f -printf '%P\n' | xargs -I{} $(installed) dist/usr/{} $(DESTDIR)$(prefix)/{}
	sed -i 's,/usr/lib/udev,$(prefix)/lib/udev,' $(DESTDIR)$(prefix)/lib/udev/rules.d/59-volattach.rules
	find dist/etc -type f -printf '%P\n' | xargs -I{} sh -c \
		'[ -e $(DESTDIR)/etc/{} ] || $(installed) dist/etc/{} $(DESTDIR)/etc/{}'
	find docs -name '*.md' -printf '%P\n' | xargs -I{} $(installed) docs/{} $(DESTDIR)$(prefix)/share/doc/volattach/{}
	[ ! -e $(selinux_module) ] || $(installed) -t $(DESTDIR)$(prefix)/share/selinux/packages $(selinux_module)
	install -d $(DESTDIR)$(prefix)/share/man/man1 $(DESTDIR)$(prefix)/share/man/man8
	target/$(profile)/volattach man $(DESTDIR)$(prefix)/share/man/man1
	target/$(profile)/volattachd --man $(DESTDIR)$(prefix)/share/man/man8
	target/$(profile)/volattach completions bash | \
		$(installed) /dev/stdin $(DESTDIR)$(prefix)/share/bash-completion/completions/volattach
	target/$(profile)/volattach completions zsh | \
		$(installed) /dev/stdin $(DESTDIR)$(prefix)/share/zsh/vendor-completions/_volattach
	target/$(profile)/volattach completions fish | \
		$(installed) /dev/stdin $(DESTDIR)$(prefix)/share/fish/vendor_completions.d/volattach.fish

.PHONY: package
package: package-deps $(cargo_deb) $(cargo_generate_rpm) $(selinux_module) ## a Debian package and an RPM, in target/package; profile=debug: in less time
	cargo build --locked $(if $(filter release,$(profile)),--release)
	CARGO_DEB=$(cargo_deb) CARGO_GENERATE_RPM=$(cargo_generate_rpm) packaging/build.sh $(profile) target/package deb rpm
	@ls -l target/package/*.deb target/package/*.rpm

# What the lab installs, of the binaries that are built already.
.PHONY: lab-package
lab-package: $(cargo_deb)
	@CARGO_DEB=$(cargo_deb) packaging/build.sh $(profile) $(directory) deb

.PHONY: package-deps
package-deps:
	@tests/lab/deps.sh lintian rpm # to look at the packages, and for the libraries that an RPM needs

.PHONY: package-test
package-test: package ## what the packages hold, and what installing, upgrading, removing and purging them does, in a Debian of its own
	tests/package.sh
