#!/bin/bash
# The Debian in which tests/package.sh installs: a directory with Debian 12 and what the package depends on.
#
#   dir=$(tests/package/debian.sh)     # half a minute the first time, then at once
#
# Prints one line, the directory with the folder tree; all else goes to stderr. Needs root.
set -euo pipefail
lab=$(dirname "$(readlink -f "$0")")/../lab
. "$lab/cache.sh"

suite=bookworm
packages=(systemd libvirt0)

# The lab's own function: moved to a file of its own it would rename, and so rebuild, every cached image.
eval "$(sed -n '/^sources() {/,/^}/p' "$lab/image.sh")"

build() {
    local options=() mirrors proxy=
    mirrors=$(sources)
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    [ -z "$proxy" ] || options+=("--aptopt=Acquire::http::Proxy \"$proxy\"")
    mmdebstrap --variant=minbase --mode=root "${options[@]}" --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/locale/*' \
        --include="$(IFS=,; echo "${packages[*]}")" "$suite" "$1/tree" ${mirrors:+-} <<<"$mirrors"
}

if [ $# = 2 ]; then # "build DIRECTORY": as a process of its own, in which errexit holds
    "$@"
    exit
fi

cached "package-$(key "$0" "$lab/cache.sh")" "$0" build
