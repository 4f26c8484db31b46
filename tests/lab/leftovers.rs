//! What must be gone when nothing is attached.

use std::time::Duration;

use anyhow::Result;

use super::{
    node::Node,
    profile::{self, Activity},
};

/// Each line that this prints is something left over. libvirt and the journal are only one witness each: the
/// kernel and the inner guest's QEMU, or Xen's store, are asked too.
const SCRIPT: &str = r#"
base=/var/lib/volattach/mnt
awk -v base="$base/" '$3 == "cifs" || $3 ~ /^nfs4?$/ || index($2, base) == 1 { print "mount: " $0 }' /proc/mounts
ls /sys/class/nvme 2>/dev/null | sed 's/^/NVMe controller: /'
find "$base" -mindepth 1 -printf 'beneath the mount base: %p\n' 2>/dev/null
for session in /sys/class/iscsi_session/session*; do
    [ -e "$session" ] && echo "iSCSI session: $(cat "$session/targetname")"
done
ls /sys/class/scsi_disk 2>/dev/null | sed 's/^/SCSI disk: /'
for map in /sys/block/dm-*; do
    [ -e "$map" ] && echo "map: $(cat "$map/dm/uuid")"
done
sed -n 's#^/#volume that multipathd remembers: /#p' /etc/multipath/wwids 2>/dev/null
# Whoever writes to a device that is gone makes a file of its name, which stays when the next device comes.
find /dev -xdev -type f -printf 'file among the devices: %p\n'
find /etc/iscsi/nodes /etc/iscsi/.volattach* -type f -printf 'node record: %p\n' 2>/dev/null
domains=$(virsh list --name --all) || exit 1
for domain in $domains; do
    ask="domblklist $domain"
    # Last, since a domain that is shut off refuses it. Any other error of virsh counts as something left over.
    [ -e /proc/xen ] || ask="$ask; qemu-monitor-command $domain '{\"execute\":\"query-named-block-nodes\"}'"
    answer=$(virsh -q "$ask" 2>&1)
    echo "$answer" | sed "/^\$/d; /^{/d; /domain is not running/d; s/^/disk of $domain: /"
    echo "$answer" | grep -o '"node-name":"[^"]*"' | sed "s/^/block node of $domain: /"
done
# The servers' own devices lie beneath /srv/lab-*, and go with them.
losetup -nO NAME,BACK-FILE | grep -v ' /srv/lab-' | sed 's/^/loop device: /'
if [ -e /proc/xen ]; then
    # Each disk is entered by whoever serves it (the kernel or a QEMU), by the guest, and by Xen's tool stack.
    xenstore-ls -f | sed -nE 's#^(/local/domain/0/backend/(vbd|qdisk)/[0-9]+/[0-9]+|/(local/domain|libxl)/[0-9]+/device/vbd/[0-9]+) = .*#disk in xenstore: \1#p'
fi
# Of a test, whose unit the next one would have too; the package's own lie in /usr.
find /run/systemd/system/volattachd.* /etc/systemd/system/volattachd.* -printf 'drop-in: %p\n' 2>/dev/null
# A service's failure of one test would be another's to explain.
systemctl list-units -q --failed --plain --no-legend --no-pager | sed 's/^/failed: /'
main=$(systemctl show -p MainPID --value volattachd)
if [ "$main" != 0 ]; then
    volattach list -o json | grep -v '^{"attachments":\[\]}$' | sed 's/^/attachment: /'
    for pid in $(cat /sys/fs/cgroup/system.slice/volattachd.service/cgroup.procs); do
        [ "$pid" = "$main" ] || echo "process: $pid $(tr '\0' ' ' </proc/"$pid"/cmdline)"
    done
fi
exit 0
"#;

/// The kernel ends a session and its threads after the unmount, at once or, where the server had fallen silent, when
/// its thread wakes from trying to reconnect.
const SESSIONS: &str = "! grep -E '^[0-9]+\\) (ConnectionId|Name)' /proc/fs/cifs/DebugData &&
    ! grep -s '^v' /proc/fs/nfsfs/servers";

/// How long sessions may take to end.
pub(crate) const SESSIONS_END: Duration = Duration::from_secs(180);

/// Everything left over of attachments, a line each; empty when all is as if nothing had ever been attached. Sessions whose mounts
/// have gone may take until `patience` to end.
pub(crate) fn find(node: &Node, patience: Duration) -> Result<Vec<String>> {
    profile::span(Activity::Leftovers, "", || search(node, patience))
}

fn search(node: &Node, patience: Duration) -> Result<Vec<String>> {
    let mut found: Vec<String> = node.sh(SCRIPT)?.lines().map(String::from).collect();
    if let Err(error) = node.wait("the end of all CIFS and NFS sessions", SESSIONS, patience) {
        let sessions = node.run(
            "cat /proc/fs/cifs/DebugData /proc/fs/nfsfs/servers",
            b"",
            Duration::from_secs(180),
        );
        found.push(format!(
            "{error:#}: {}",
            sessions.map_or_else(|error| error.to_string(), |output| output.stdout)
        ));
    }
    Ok(found)
}
