#!/bin/bash
# Makes packages of what `make install` installs: that is the one place which says where a file lies.
#
#   packaging/build.sh PROFILE DIRECTORY KIND...
#
# After `cargo build`. Makes the KINDs, deb and rpm, in DIRECTORY, whose packages it replaces; the Makefile calls this, and names the tools by
# CARGO_DEB and CARGO_GENERATE_RPM.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
profile=$1
directory=$2
shift 2
# Apart from what `make package` makes, because the lab makes packages too.
out=target/package-tree
umask 022

# The tree always lies there, as Cargo.toml says: two builds take turns.
mkdir -p target
exec 9>target/package.lock
flock 9
rm -rf "$out"
mkdir -p "$out" "$directory"
make -s install profile="$profile" DESTDIR="$out/deb" prefix=/usr
strip "$out"/deb/usr/bin/* "$out"/deb/usr/sbin/*

# The same date for the same commit: a package that is built twice is the same twice.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
cat >"$out/changelog" <<END
volattach ($version-1) unstable; urgency=medium

  * The changes are in changelog.gz.

 -- The volattach developers <volattach@example.org>  $(date -R -u -d "@$SOURCE_DATE_EPOCH")
END
# Under the name that Debian gives it.
gzip -9n <CHANGELOG.md >"$out/deb/usr/share/doc/volattach/changelog.gz"

# Binaries for a test are large, and not worth the minutes. gzip's are unpacked in a third of the time of xz's on an emulated node.
[ "$profile" = release ] && deb=() rpm=() || deb=(--fast --compress-type gz --compress-system) rpm=(--payload-compress none)
for kind; do
    rm -f "$directory"/*."$kind"
    case $kind in
    deb) "$CARGO_DEB" --no-build --no-strip --quiet "${deb[@]}" --output "$directory/" >/dev/null ;;
    rpm)
        # Fedora's zsh looks for completions elsewhere.
        cp -al "$out/deb" "$out/rpm"
        mv "$out/rpm/usr/share/zsh/vendor-completions" "$out/rpm/usr/share/zsh/site-functions"
        # Which libraries the binaries name. The tool's own way takes those that these need in turn, by Debian's names.
        "$CARGO_GENERATE_RPM" --auto-req find-requires "${rpm[@]}" --output "$directory/"
        ;;
    esac
done
