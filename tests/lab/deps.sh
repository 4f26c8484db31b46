#!/bin/bash
# Installs by apt what Debian 12 lacks for building volattach and for running its lab. Does nothing, not even
# fetch package lists, where all of it is there. Uses sudo unless run by root. Rust itself is not its business.
set -euo pipefail

packages=(
    gcc libc6-dev pkg-config libvirt-dev                           # the build
    libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients      # qemu:///embed on this machine
    qemu-system-x86 qemu-utils                                     # the lab's node, and the embedded guests
    mmdebstrap debian-archive-keyring e2fsprogs cpio openssh-client # the lab's image, and the way into it
)

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} = 0 ]; then
    exit 0
fi

root=()
[ "$(id -u)" = 0 ] || root=(sudo)
echo "deps: installing ${missing[*]}"
"${root[@]}" apt-get -q update
install=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends)
if "${install[@]}" "${missing[@]}"; then
    exit 0
fi
# qemu-utils from bookworm-backports forbids bookworm's qemu-system-x86: apt then reports "held broken packages".
echo "deps: trying again with bookworm's own qemu-utils, in case this machine has the one of backports"
"${install[@]}" --allow-downgrades "${missing[@]}" qemu-utils/bookworm
