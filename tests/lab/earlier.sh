#!/bin/bash
# The build of an earlier commit, as its own `make install` lays it out: what the lab upgrades from.
#
#   dir=$(tests/lab/earlier.sh)     # some minutes the first time, then at once
#
# Prints one line, the directory with the file package.tar; all else goes to stderr. Needs the commit in this checkout's history.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/cache.sh"

# The last one that writes journals of version 1.
commit=57d1d35981e28ffeb04dc2deb34f53f9e67464f1

build() {
    umask 022
    git -C "$here/../.." cat-file -e "$commit" 2>/dev/null || {
        say "this checkout lacks commit $commit, to upgrade from its build: fetch the whole history (git fetch --unshallow)"
        exit 1
    }
    say "building volattach of commit ${commit:0:7} (once, some minutes)"
    mkdir source tree
    git -C "$here/../.." archive "$commit" | tar -x -C source
    # Its `make install` takes the binaries from there.
    export CARGO_TARGET_DIR=$PWD/source/target CARGO_PROFILE_DEV_DEBUG=0
    cargo build --quiet --locked --bins --manifest-path source/Cargo.toml
    make -s -C source install profile=debug "DESTDIR=$PWD/tree"
    strip tree/usr/bin/volattach tree/usr/sbin/volattachd*
    tar -c --owner=0 --group=0 -f package.tar -C tree .
    rm -r source tree
}

case ${1-} in
"") cached "earlier-$(key "$0" "$here/cache.sh")" "$0" build ;;
build) # a process of its own, which ends at the first command that fails
    cd "$2"
    build
    ;;
esac
