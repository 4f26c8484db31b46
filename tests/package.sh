#!/bin/bash
# Looks at the packages that `make package` made, and installs, upgrades, removes and purges the Debian one in a Debian of its own: a
# directory, without a machine, in which tests/package/systemctl stands in for systemd and runs the daemon.
#
#   tests/package.sh     needs root (sudo, unless run by root)
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
export LC_ALL=C
if [ "$(id -u)" != 0 ]; then
    exec sudo env "PATH=$PATH" "HOME=$HOME" "$0" "$@"
fi

fail() {
    echo "package: FAILED: $*" >&2
    exit 1
}
ok() { echo "package: ok: $*"; }

# ---- What the packages hold ----

# modes PACKAGE LIST
modes() {
    if awk '$3 !~ "^(root/root|0/0)$" || $2 !~ ($1 ~ "^/usr/s?bin/" ? "^-rwxr-xr-x$" : "^-rw-r--r--$")' "$2" | grep .; then
        fail "these files of $1 have another owner or mode than they should"
    fi
}

look() {
    local deb=$1 rpm=$2 listed
    # Directories aside: path, mode and owner of each file.
    dpkg-deb -c "$deb" | awk '$1 !~ /^d/ { print substr($6, 2), $1, $2 }' | sort >"$work/deb.list"
    modes "$deb" "$work/deb.list"
    # Man pages and the changelog are compressed on their way into the package.
    cut -d' ' -f1 "$work/deb.list" | sed 's/\.gz$//' | sort >"$work/deb.paths"
    flock target/package.lock find target/package-tree/deb -type f -printf '/%P\n' | sed 's/\.gz$//' | sort >"$work/tree.paths"
    ! comm -13 "$work/deb.paths" "$work/tree.paths" | grep . || fail "these files are not in $deb"
    for listed in /usr/share/doc/volattach/copyright /usr/share/doc/volattach/changelog.Debian; do
        grep -qx "$listed" "$work/deb.paths" || fail "$deb has no $listed"
    done
    ! find dist -type f -printf '/%P\n' | sort | comm -23 - "$work/deb.paths" | grep . || fail "these files of dist/ are not in $deb"
    ok "$(wc -l <"$work/deb.list") files in the Debian package, all of dist/ among them"

    dpkg-deb --ctrl-tarfile "$deb" | tar -xO ./conffiles | sort >"$work/conffiles"
    diff <(grep ^/etc/ "$work/deb.paths") "$work/conffiles" || fail "what is in /etc and what dpkg keeps differ"
    ok "dpkg keeps what an administrator changes in /etc"

    dpkg-deb -f "$deb" Depends | grep -qE '(^|, )libc6 \(>=.*(^|, )libvirt0 \(>=' || fail "Depends: $(dpkg-deb -f "$deb" Depends)"
    lintian --fail-on error --tag-display-limit 0 "$deb" >"$work/lintian.log" 2>&1 || { cat "$work/lintian.log"; fail lintian; }
    ok "lintian finds no error, and $(grep -c '^W:' "$work/lintian.log" || true) to warn of"

    # Directories aside, as above: rpm lists files alone.
    rpm -qp --qf '[%{FILENAMES} %{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME}\n]' "$rpm" | sort >"$work/rpm.list"
    diff <(sed 's,/usr/share/zsh/site-functions,/usr/share/zsh/vendor-completions,' "$work/rpm.list" | sort | cut -d' ' -f1 | sed 's/\.gz$//') \
        <(grep -vx '/usr/share/doc/volattach/\(copyright\|changelog.Debian\)' "$work/deb.paths") || fail "$rpm has other files than $deb"
    modes "$rpm" "$work/rpm.list"
    rpm -qp --requires "$rpm" | sed -n 's/^\(lib[^(]*\).*/\1/p' | sort -u >"$work/libraries"
    diff - "$work/libraries" <<<$'libc.so.6\nlibgcc_s.so.1\nlibm.so.6\nlibvirt.so.0' || fail "$rpm requires other libraries than its programs name"
    diff <(rpm -qpc "$rpm" | sort) "$work/conffiles" || fail "what is in /etc and what rpm keeps differ"
    mkdir "$work/rpm"
    rpm --force-debian --root "$work/rpm" -i --nodeps --noscripts "$rpm"
    rpm --root "$work/rpm" -V --nodeps volattach || fail "$rpm is not installed as it was made"
    ok "the RPM has the same files"
}

# ---- What its scripts do ----

# in_root COMMAND...: in the Debian.
in_root() {
    chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"
}

enter() {
    root=$work/root
    mkdir "$work"/{upper,scratch,root}
    mount -t tmpfs none "$work/upper"
    mkdir "$work/upper"/{upper,work}
    mount -t overlay -o "lowerdir=$tree,upperdir=$work/upper/upper,workdir=$work/upper/work" none "$root"
    mount -t proc none "$root/proc"
    mount -t sysfs none "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs none "$root/run"
    # By this the scripts see that systemd runs.
    mkdir -p "$root/run/systemd/system" "$root/srv/vols"
    install tests/package/systemctl "$root/usr/local/sbin/systemctl"
    truncate -s 1M "$root/srv/vols/v.raw"
    cp "$1" "$root/volattach.deb"
}

attached() { in_root volattach list | grep -c '^one ' || true; }
runs() { [ -e "$root/run/volattachd.pid" ] && kill -0 "$(in_root cat /run/volattachd.pid)" 2>/dev/null; }
asked() { cat "$root/run/systemctl.log"; : >"$root/run/systemctl.log"; }
state=/var/lib/volattach

install_it() { in_root dpkg --force-confold -i /volattach.deb >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log"; fail "installing"; }; }
remove_it() { in_root dpkg -r volattach >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log"; fail "removing"; }; }
purge_it() { in_root dpkg -P volattach >"$work/dpkg.log" 2>&1; }
refused() {
    ! purge_it || fail "a purge was not refused: $1"
    grep -q "not purged: .*$2" "$work/dpkg.log" || { cat "$work/dpkg.log"; fail "refused for another reason: $1"; }
    [ "$(in_root dpkg-query -W -f '${db:Status-Status}' volattach)" = config-files ] || fail "the package's state after a refused purge"
    ok "a purge is refused: $1"
}

scripts() {
    install_it
    in_root getent group volattach >/dev/null || fail "no group volattach"
    for link in sockets.target.wants/volattachd.socket multi-user.target.wants/volattachd.service; do
        [ -L "$root/etc/systemd/system/$link" ] || fail "$link is not enabled"
    done
    asked >"$work/asked"
    grep -q 'start volattachd.socket' "$work/asked" || fail "the socket is not started: $(cat "$work/asked")"
    runs || fail "the daemon does not run after the installation"
    ok "an installation makes the group, and enables and starts the units"

    printf '[local]\nroots = ["/srv/vols"]\n' >"$root/etc/volattach/volattachd.toml.d.toml"
    mkdir -p "$root/etc/volattach/volattachd.toml.d"
    mv "$root/etc/volattach/volattachd.toml.d.toml" "$root/etc/volattach/volattachd.toml.d/test.toml"
    in_root systemctl restart volattachd.service
    echo '{"driver_volume_type": "local", "data": {"device_path": "/srv/vols/v.raw"}}' >"$root/srv/v.json"
    in_root volattach connect --id one --volume v --connection-info /srv/v.json >/dev/null
    [ "$(attached)" = 1 ] || fail "the volume is not connected"

    local before
    before=$(in_root cat /run/volattachd.pid)
    asked >/dev/null
    install_it
    asked >"$work/asked"
    ! grep -qw stop "$work/asked" || fail "an upgrade stops a unit: $(cat "$work/asked")"
    [ "$(in_root cat /run/volattachd.pid)" != "$before" ] || fail "an upgrade does not restart the daemon"
    [ "$(attached)" = 1 ] || fail "an upgrade loses an attachment"
    ok "an upgrade restarts the daemon, and leaves its volumes attached"

    in_root systemctl stop volattachd.service
    rm "$root"/etc/systemd/system/*.wants/volattachd.*
    install_it
    ! runs && ! ls "$root"/etc/systemd/system/*.wants/volattachd.* >/dev/null 2>&1 || fail "an upgrade starts what was disabled"
    ok "an upgrade leaves units alone that are disabled"
    in_root systemctl -q enable volattachd.socket volattachd.service
    in_root systemctl start volattachd.service

    echo "# changed" >>"$root/etc/volattach/volattachd.toml"
    refused "a volume is attached" "volumes are attached"
    ! runs || fail "the daemon runs after a removal"
    [ -e "$root$state/journal.redb" ] || fail "the journal is gone"
    grep -q "# changed" "$root/etc/volattach/volattachd.toml" || fail "the configuration is gone"

    install_it
    runs && [ "$(attached)" = 1 ] || fail "the next installation does not go on from the journal"
    [ ! -e "$root$state/purge-note" ] || fail "a note that is no longer true was left"
    grep -q "# changed" "$root/etc/volattach/volattachd.toml" || fail "the next installation loses the configuration"
    ok "the next installation goes on from the journal and the configuration"

    in_root volattach disconnect one >/dev/null
    remove_it
    ! runs || fail "the daemon runs after a removal"
    [ -e "$root$state/journal.redb" ] && [ -e "$root/etc/volattach/volattachd.toml.d/test.toml" ] || fail "a removal takes too much"
    [ ! -e "$root/usr/sbin/volattachd" ] || fail "the program is left"
    ok "a removal stops the daemon, and leaves journal and configuration"

    mkdir -p "$root$state/mnt/share"
    mount -t tmpfs none "$root$state/mnt/share"
    touch "$root$state/mnt/share/precious"
    refused "a share is mounted" "mounted beneath"
    [ -e "$root$state/mnt/share/precious" ] || fail "a refused purge removed a file of a mounted share"
    umount "$root$state/mnt/share"
    mv "$root$state/purge-note" "$work/purge-note"
    refused "there is a journal without a note" "no note"
    mv "$work/purge-note" "$root$state/purge-note"

    purge_it || { cat "$work/dpkg.log"; fail "a purge without attachments"; }
    for left in $state /etc/volattach /etc/multipath/conf.d/volattach.conf; do
        [ ! -e "$root$left" ] || fail "a purge leaves $left"
    done
    ! find "$root/etc/systemd" "$root/var/lib/systemd/deb-systemd-helper-enabled" -name '*volattach*' | grep . || fail "a purge leaves links"
    ok "a purge leaves nothing"

    install_it
    in_root systemctl stop volattachd.service
    rm "$root$state/journal.redb"
    refused "the journal is missing" "the journal is missing"
    install_it
    in_root systemctl stop volattachd.service
    truncate -s 100 "$root$state/journal.redb"
    refused "the journal is damaged" "unknown"
    rm -r "${root:?}$state"
    purge_it || { cat "$work/dpkg.log"; fail "a purge once the state is removed by hand"; }

    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod +x "$root/usr/sbin/policy-rc.d"
    install_it
    ! runs || fail "a daemon was started against policy-rc.d"
    purge_it || { cat "$work/dpkg.log"; fail "a purge of a daemon that never ran"; }
    ok "a daemon that never ran is purged"
}

# What rpm would call, with what it would pass on.
rpm_scripts() {
    rm "$root/usr/sbin/policy-rc.d"
    install_it
    cp packaging/rpm/* "$root/srv"
    asked >/dev/null
    in_root sh -e /srv/post 1
    asked | grep -q 'start volattachd.socket volattachd.service' || fail "rpm -i does not start the units"
    in_root sh -e /srv/post 2
    in_root sh -e /srv/preun 1
    ! asked | grep -qwE 'start|stop|restart|enable|disable' || fail "rpm -U changes units before its end"
    in_root sh -e /srv/postun 1
    asked | grep -q 'try-restart volattachd.service' || fail "rpm -U does not restart the daemon"
    in_root sh -e /srv/preun 0
    ! runs || fail "rpm -e does not stop the daemon"
    in_root sh -e /srv/postun 0
    [ -e "$root$state/journal.redb" ] || fail "rpm -e takes the journal"
    ok "the RPM's scripts start, restart and stop the same"
}

case ${1-} in
"")
    tree=$(tests/package/debian.sh)/tree
    work=$(mktemp -d)
    trap 'rm -rf --one-file-system "$work"' EXIT
    look target/package/*.deb target/package/*.rpm
    # Mounts and processes end with the command.
    tree=$tree work=$work unshare --mount --pid --fork --kill-child "$0" inside target/package/*.deb
    echo "package: the packages hold what is installed, and their scripts do what docs/packages.md says"
    ;;
inside)
    enter "$2"
    scripts
    rpm_scripts
    ;;
esac
