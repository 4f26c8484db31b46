#!/bin/bash
# Installs by apt what Debian 12 lacks for building volattach and for running its lab. Does nothing, not even
# fetch package lists, where all of it is there. Uses sudo unless run by root. Rust itself is not its business.
#   tests/lab/deps.sh [PACKAGE...]   these too
set -euo pipefail

packages=(
    gcc libc6-dev pkg-config libvirt-dev                           # the build
    dpkg-dev                                                       # the Debian package's dependencies
    libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients      # qemu:///embed on this machine
    qemu-system-x86 qemu-utils                                     # the lab's node, and the embedded guests
    mmdebstrap debian-archive-keyring e2fsprogs cpio xz-utils openssh-client # the lab's image, and the way into it
    python3-grpcio python3-protobuf                                # a foreign client of the API
    selinux-policy-dev semodule-utils policycoreutils setools       # the SELinux module, and looks at what it allows
    python3-venv                                                   # oslo.policy, to compare decisions with; the Python client
    openssl                                                        # certificates for the Python client
    "$@"
)

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done

root=()
[ "$(id -u)" = 0 ] || root=(sudo)

# libvirt's QEMU driver, run by root, does not start without QEMU's user and group, whichever its configuration names.
# They come with libvirt-daemon-system, which also starts a libvirtd that nothing here wants: so they are made as it
# makes them.
getent group kvm >/dev/null || "${root[@]}" groupadd --system kvm
getent group libvirt-qemu >/dev/null || "${root[@]}" groupadd --system -K SYS_GID_MAX=64055 --gid 64055 libvirt-qemu
getent passwd libvirt-qemu >/dev/null ||
    "${root[@]}" useradd --system -K SYS_UID_MAX=64055 --uid 64055 --gid kvm --groups libvirt-qemu \
        --home-dir /var/lib/libvirt --no-create-home --shell /usr/sbin/nologin libvirt-qemu

if [ ${#missing[@]} = 0 ]; then
    exit 0
fi

echo "deps: installing ${missing[*]}"
"${root[@]}" apt-get -q update
install=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends)
if "${install[@]}" --no-remove "${missing[@]}"; then
    exit 0
fi
# qemu-utils from bookworm-backports and bookworm's qemu-system-x86 are in conflict: apt would remove the former.
echo "deps: trying again with bookworm's own qemu-utils, in case this machine has the one of backports"
"${install[@]}" --allow-downgrades "${missing[@]}" qemu-utils/bookworm
