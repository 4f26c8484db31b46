#!/bin/bash
# The lab's compute node as a disk image: Debian 12 with systemd, Samba, libvirt, QEMU and Xen, and the inner guest.
# The same image is a KVM node where its kernel is booted, and a Xen node where Xen is booted with it.
#
#   dir=$(tests/lab/image.sh)           # some two minutes the first time, then at once
#   dir=$(tests/lab/image.sh selinux)   # the same with Debian's SELinux policy, to be enforced, and each file labelled by it
#
# Prints one line, the directory with the files disk.img (ext4, no partitions), vmlinuz, initrd.img, xen, vmlinux (the
# same kernel, unpacked), and the key to log in as root; all else goes to stderr. Needs root (sudo, unless run by root)
# for the first time.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/cache.sh"

suite=bookworm
packages=(
    systemd systemd-sysv udev dbus kmod iproute2 procps util-linux e2fsprogs linux-image-amd64
    libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils
    samba smbclient keyutils
    samba-dsdb-modules samba-vfs-modules samba-ad-provision winbind krb5-user cifs-utils # Active Directory
    python3-impacket                                  # an SMB server that is not Samba
    nfs-kernel-server nfs-common rpcbind
    open-iscsi multipath-tools targetcli-fb sg3-utils # NVMe/TCP is all kernel
    apparmor                                          # recommended by the kernel, so on each of Debian's nodes
    lvm2 kpartx mdadm                                 # what looks into disks by itself
    extlinux fdisk                                    # a volume to boot from
    openssh-server python3-minimal
    xen-hypervisor-4.17-amd64 xen-utils-4.17 xenstore-utils libvirt-daemon-driver-xen
    qemu-system-xen                                   # the device model of Xen's domains
)
# Services that cost seconds of an emulated boot, or run when a test least expects it, and serve nothing here.
masked=(
    smbd.service nmbd.service winbind.service samba-ad-dc.service libvirt-guests.service
    nfs-server.service nfs-blkmap.service rpc-statd-notify.service e2scrub_reap.service
    open-iscsi.service multipathd.service multipathd.socket rtslib-fb-targetctl.service
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer
    fstrim.timer logrotate.timer systemd-pstore.service systemd-networkd-wait-online.service
    "getty@tty1.service" xendomains.service systemd-hwdb-update.service systemd-journal-flush.service
)
# Kernel drivers of hardware that no QEMU machine of ours has: a third of the image.
unneeded=(sound drivers/{gpu,media,infiniband,iio,hwmon,staging,usb,hid,isdn,comedi,bluetooth}
    drivers/net/{ethernet,wireless,can,usb})

# As docs/selinux.md has it: what Debian's policy forbids libvirt and the lab's own servers is let by image/selinux.cil.
hooks=()
case ${1-} in
'') name=image ;;
selinux)
    name=image-selinux
    packages+=(selinux-basics selinux-policy-default policycoreutils auditd)
    hooks=(
        --customize-hook='printf "SELINUX=enforcing\nSELINUXTYPE=default\n" >"$1/etc/selinux/config"'
        --customize-hook="copy-in '$here/image/selinux.cil' /usr/local/share/lab"
        --customize-hook='chroot "$1" semodule -n -i /usr/local/share/lab/selinux.cil'
        # Guests' consoles are in a directory that the rules have a label for.
        --customize-hook='mkdir "$1/var/log/lab"'
    )
    ;;
*)
    echo "usage: image.sh [selinux]" >&2
    exit 2
    ;;
esac

root=()
[ "$(id -u)" = 0 ] || root=(sudo)

# sources: this machine's own sources of the suite, as apt has them; nothing where it has none (mmdebstrap then
# takes Debian's). Other suites and other vendors' packages have no place in the node.
sources() {
    apt-get indextargets --format '$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)' |
        sed -nE "s/^Packages (\S+ $suite(-updates|-security)? (main))\$/deb \1/p" | sort -u
}

# unpack_kernel VMLINUZ: writes the ELF file within to stdout. An emulated processor would take Xen ten seconds for it.
# Where it lies is told by the header of Linux's boot protocol: setup_sects, payload_offset and payload_length.
unpack_kernel() {
    local setup offset length
    read -r setup < <(od -An -t u1 -j $((0x1f1)) -N 1 "$1")
    read -r offset length < <(od -An -t u4 -j $((0x248)) -N 8 "$1")
    # The size of the unpacked kernel follows the stream.
    dd if="$1" bs=1M iflag=skip_bytes,count_bytes skip=$(((setup + 1) * 512 + offset)) count="$length" status=none |
        xz -dc --single-stream
}

build() {
    umask 022
    local guest start=$SECONDS
    guest=$("$here/guest.sh")
    say "building the node's disk image (once, some two minutes)"
    cd "$1"
    ssh-keygen -q -t ed25519 -N '' -C volattach-lab -f key

    # What is laid over the packages' files.
    mkdir overlay
    cp -a "$here/image/tree/." overlay/
    mkdir -p overlay/root/.ssh overlay/usr/local/share/lab overlay/etc/systemd/system/multi-user.target.wants
    cp -r "$guest" overlay/usr/local/share/lab/guest
    install -m 600 key.pub overlay/root/.ssh/authorized_keys
    local unit
    for unit in "${masked[@]}"; do
        ln -s /dev/null "overlay/etc/systemd/system/$unit"
    done
    # An empty machine-id would make the first boot one that presets and enables every service.
    tr -d - </proc/sys/kernel/random/uuid >overlay/etc/machine-id
    ln -s /lib/systemd/system/systemd-networkd.service overlay/etc/systemd/system/multi-user.target.wants/

    local options=() path proxy=
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    [ -z "$proxy" ] || options+=("--aptopt=Acquire::http::Proxy \"$proxy\"")
    for path in "${unneeded[@]}"; do
        options+=("--dpkgopt=path-exclude=/lib/modules/*/kernel/$path/*")
    done
    # libvirt's driver of Xen wants to know the processor. QEMU emulates none with VME, Xen hides SEP from its domains where
    # the processor is AMD's, and libvirt knows no model without both: so one gets by without VME.
    local mirrors
    mirrors=$(sources)
    "${root[@]}" mmdebstrap --variant=minbase --mode=root "${options[@]}" \
        --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt=force-unsafe-io \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/etc/initramfs-tools/hooks"' \
        --essential-hook='printf "MODULES=list\nCOMPRESS=gzip\nCOMPRESSLEVEL=1\n" >"$1/etc/initramfs-tools/conf.d/lab"' \
        --essential-hook="copy-in '$here/image/initramfs-hook' /etc/initramfs-tools/hooks" \
        --include="$(IFS=,; echo "${packages[*]}")" \
        --customize-hook="sync-in overlay /" \
        --customize-hook='chown -R root:root "$1/root" "$1/usr/local" "$1/etc/systemd"; chmod 700 "$1/root/.ssh"' \
        --customize-hook='chroot "$1" lab-smb provision' \
        --customize-hook='sed -i /vme/d "$1"/usr/share/libvirt/cpu_map/x86_pentium.xml' \
        "${hooks[@]}" \
        "$suite" tree ${mirrors:+-} <<<"$mirrors"

    # Here, since mmdebstrap still makes files after its hooks.
    [ "$name" = image ] || "${root[@]}" setfiles -F -r tree tree/etc/selinux/default/contexts/files/file_contexts tree

    truncate -s 6G disk.img
    "${root[@]}" mke2fs -q -t ext4 -d tree -L root -E lazy_itable_init=1,lazy_journal_init=1 disk.img
    "${root[@]}" cp -L tree/vmlinuz tree/initrd.img .
    "${root[@]}" cp tree/boot/xen-*.gz xen.gz
    "${root[@]}" rm -rf tree overlay
    "${root[@]}" chown "$(id -u):$(id -g)" disk.img vmlinuz initrd.img xen.gz
    gunzip xen.gz
    unpack_kernel vmlinuz >vmlinux
    say "built the node's disk image in $((SECONDS - start)) s, $(du -sh disk.img | cut -f1)"
}

if [ "${2-}" = build ]; then # "NAME build DIRECTORY": as a process of its own, in which errexit holds
    build "$3"
    exit
fi

cached "$name-$(cd "$here" && key image.sh cache.sh guest.sh guest/init image/initramfs-hook image/selinux.cil \
    $(find image/tree -type f | LC_ALL=C sort))" "$0" "${1-}" build
