#!/bin/bash
# The inner guest: a kernel and an initramfs whose serial console tells what a guest sees of its disks
# (guest/init says in which words). For any QEMU, on the development machine or in the lab's node, and for Xen.
#
#   dir=$(tests/lab/guest.sh)     # some 5 s the first time, then at once
#   qemu-system-x86_64 -m 160 -nographic -kernel "$dir/vmlinuz" -initrd "$dir/initrd.img" \
#       -append "$(cat "$dir/cmdline")" -drive file=DISK,if=virtio,format=raw
#
# Prints one line, the directory with the files vmlinuz, initrd.img and cmdline; all else goes to stderr.
# Needs neither root nor any package installed: Debian's cloud kernel and busybox are fetched and unpacked.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/cache.sh"

# fetch_all: puts the archives of busybox and of the kernel into the current directory. Options are for apt.
fetch_all() {
    local kernel
    # The package without a version depends on the one with the kernel in it.
    kernel=$(apt-cache "$@" depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p') &&
        apt-get -q -o APT::Sandbox::User=root "$@" download busybox-static "$kernel"
}

build() {
    say "building the inner guest (once)"
    umask 022
    mkdir "$1/work"
    cd "$1/work"
    if ! fetch_all; then
        say "the machine's package lists are missing or out of date: fetching them for this build alone"
        mkdir -p apt/lists/partial apt/archives/partial
        apt-get -q -o APT::Sandbox::User=root -o Dir::State::Lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt" update
        fetch_all -o Dir::State::Lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt"
    fi
    dpkg-deb -x busybox-static_*.deb .
    dpkg-deb --fsys-tarfile linux-image-*.deb |
        tar -x --wildcards './boot/vmlinuz-*' './lib/modules/*/kernel/drivers/virtio/*' \
            './lib/modules/*/kernel/drivers/block/virtio_blk.ko' \
            './lib/modules/*/kernel/drivers/block/xen-blkfront.ko' './lib/modules/*/kernel/drivers/scsi/*'

    mkdir -p tree/bin tree/modules
    cp bin/busybox tree/bin/
    install "$here/guest/init" tree/init
    local module
    for module in $(sed -nE 's/^ *modules="(\$modules )?(.*)"$/\2/p' tree/init); do
        find lib/modules -name "$module.ko" -exec cp {} tree/modules/ \;
    done
    (cd tree && find . | cpio --quiet -o -H newc -R 0:0 | gzip -1) >../initrd.img
    cp boot/vmlinuz-* ../vmlinuz
    echo 'console=ttyS0 quiet mitigations=off' >../cmdline
    cd ..
    rm -rf work
    chmod 755 .
}

if [ $# = 2 ]; then # "build DIRECTORY": as a process of its own, in which errexit holds
    "$@"
    exit
fi

cached "guest-$(key "$here/guest.sh" "$here/guest/init" "$here/cache.sh")" "$0" build
