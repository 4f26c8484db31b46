#!/bin/bash
# Links the compiled module with the distribution's whole policy, as loading it would, and looks at what comes of it: its
# neverallow rules hold, its labels exist, and who may do what is as docs/selinux.md says. Needs no SELinux on this machine.
#   tests/selinux.sh MODULE.pp DIRECTORY   the directory keeps what is fetched and made
set -euo pipefail
module=$(readlink -f "$1")
rules=$(dirname "$(readlink -f "$0")")/selinux_rules.py
mkdir -p "$2"
cd "$2"

# Debian's policy, only unpacked: installing it would set this machine up for SELinux.
if ! [ -e policy/usr/share/selinux/default/base.pp ]; then
    rm -rf policy ./selinux-policy-default_*.deb
    if ! apt-get -qq download selinux-policy-default 2>/dev/null; then
        root=()
        [ "$(id -u)" = 0 ] || root=(sudo)
        "${root[@]}" apt-get -qq update
        apt-get -qq download selinux-policy-default
    fi
    dpkg -x selinux-policy-default_*.deb policy
    bunzip2 policy/usr/share/selinux/default/*.pp.bz2
fi

modules=policy/usr/share/selinux/default
others=()
for other in "$modules"/*.pp; do
    [ "${other##*/}" = base.pp ] || others+=("$other")
done
semodule_link -o linked.pp "$modules/base.pp" "${others[@]}" "$module" >link.log 2>&1 || { cat link.log; exit 1; }
# Neverallow rules are checked here.
semodule_expand linked.pp linked.policy >expand.log 2>&1 || { cat expand.log; exit 1; }
semodule_unpackage "$module" volattach.mod volattach.fc
setfiles -q -c linked.policy volattach.fc

# Which rules the policy must have, and must not, by the arguments of sesearch.
some() { echo "some $*"; }
none() { echo "none $*"; }
asked() {
    # The daemon and its workers are in domains of their own, also under no_new_privs.
    some -T -s init_t -t volattachd_exec_t -c process
    some -A -s init_t -t volattachd_t -c process2 -p nnp_transition
    some -T -s volattachd_t -t volattachd_worker_exec_t -c process
    some -A -s volattachd_t -t volattachd_worker_t -c process2 -p nnp_transition
    some -T -s volattachd_t -t volattachd_var_lib_t -c dir
    # The daemon reaches libvirt, iscsid, multipathd and its servers, and mounts nothing itself.
    for target in virtd_t iscsid_t lvm_t xenstored_t; do
        some -A -s volattachd_t -t "$target" -c unix_stream_socket -p connectto
    done
    # multipathd's list of volumes has this type, since multipathd makes the file in /etc.
    some -T -s lvm_t -t etc_t -c file
    some -A -s volattachd_t -t lvm_metadata_t -c file -p write
    for port in smbd_port_t nfs_port_t portmap_port_t iscsi_port_t http_port_t commplex_main_port_t unreserved_port_t; do
        some -A -s volattachd_t -t "$port" -c tcp_socket -p name_connect
    done
    some -A -s volattachd_t -t volattachd_port_t -c tcp_socket -p name_bind
    some -A -s volattachd_t -t security_t -c file -p read
    none -A -s volattachd_t -c filesystem -p mount
    # Who logged in to an iSCSI target, the kernel tells that alone.
    some -A -s volattachd_t -t volattachd_t -c capability -p sys_admin
    # The audit only grows, and LVM's configuration is only read.
    some -A -s volattachd_t -t volattachd_log_t -c file -p append
    for may in write unlink rename; do
        none -A -s volattachd_t -t volattachd_log_t -c file -p "$may"
    done
    some -A -s volattachd_t -t lvm_exec_t -c file -p execute_no_trans
    some -A -s volattachd_t -t lvm_etc_t -c file -p read
    none -A -s volattachd_t -t lvm_etc_t -c file -p write
    # Workers mount and unmount shares, and look at volumes.
    for share in cifs_t nfs_t; do
        for may in mount unmount; do
            some -A -s volattachd_worker_t -t "$share" -c filesystem -p "$may"
        done
        some -A -s volattachd_worker_t -t "$share" -c file -p open
        none -A -s volattachd_worker_t -t "$share" -c file -p create
    done
    some -A -s volattachd_worker_t -t volattachd_mnt_t -c dir -p mounton
    some -A -s volattachd_worker_t -t kernel_t -c system -p module_request
    some -A -s volattachd_worker_t -t sysfs_t -c file -p write
    some -A -s volattachd_worker_t -t fixed_disk_device_t -c blk_file -p ioctl
    # They have no network, no program to run, no secret of the host's.
    none -A -s volattachd_worker_t -c tcp_socket -p connect
    none -A -s volattachd_worker_t -c udp_socket -p create
    none -A -s volattachd_worker_t -p name_connect
    none -A -s volattachd_worker_t -c file -p execute_no_trans
    none -A -s volattachd_worker_t -c process -p transition
    for secret in shadow_t volattachd_var_lib_t volattachd_etc_t volattachd_nodes_t; do
        none -A -s volattachd_worker_t -t "$secret" -c file
    done
    # Guests pass through to their volumes, and their hypervisor too; they see nothing of the daemon's own.
    for guest in svirt_t virtd_t; do
        some -A -s "$guest" -t volattachd_mnt_t -c dir -p search
    done
    none -A -s svirt_t -t volattachd_var_lib_t -c file
    none -A -s svirt_t -t volattachd_t -c unix_stream_socket -p connectto
}

asked | "$rules" linked.policy
echo "selinux: the module links with Debian's policy, and its rules are as documented"
