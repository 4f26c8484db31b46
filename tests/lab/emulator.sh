#!/bin/bash
# The emulator of the lab's nodes: QEMU from Debian 12's backports, whose emulation of x86 takes two thirds of the time that
# Debian 12's own (7.2) takes. The machine's QEMU and package lists stay as they are.
#
#   qemu=$(tests/lab/emulator.sh)     # some 8 s the first time, then at once
#
# Prints one line, the program to run; all else goes to stderr. If backports' QEMU cannot be fetched or does not run, the program
# is the machine's own QEMU, and a line of stderr says so. Needs neither root nor any package but QEMU's libraries, which the
# machine's own qemu-system-x86 brings.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/cache.sh"

suite=bookworm
packages=(qemu-system-x86 qemu-system-common qemu-system-data)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# mirror: the one that this machine fetches the suite from.
mirror() {
    apt-get indextargets --format '$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)' |
        sed -nE "s/^Packages (\S+) $suite main\$/\1/p" | head -n 1
}

# fetch MIRROR: puts the packages' archives into the current directory, verified by apt against Debian's keys.
fetch() {
    mkdir -p apt/lists/partial apt/archives/partial
    printf "deb [signed-by=$keyring] $1 %s main\n" "$suite" "$suite-backports" >apt/sources.list
    local apt=(apt-get -q -o APT::Sandbox::User=root -o Dir::Etc::SourceList="$PWD/apt/sources.list"
        -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt")
    "${apt[@]}" update && "${apt[@]}" download "${packages[@]/%//$suite-backports}" seabios
}

build() {
    say "fetching QEMU from Debian's backports (once)"
    cd "$1"
    local mirror archive
    mirror=$(mirror)
    [ -n "$mirror" ] || {
        say "apt has no mirror of $suite"
        exit 1
    }
    fetch "$mirror"
    for archive in *.deb; do
        dpkg-deb -x "$archive" .
    done
    rm -rf apt ./*.deb usr/share/doc usr/share/man
    cat >qemu-system-x86_64 <<'SCRIPT'
#!/bin/sh
here=$(dirname "$0")
exec "$here/usr/bin/qemu-system-x86_64" -L "$here/usr/share/qemu" -L "$here/usr/share/seabios" "$@"
SCRIPT
    chmod 755 . qemu-system-x86_64
    ./qemu-system-x86_64 --version
}

if [ $# = 2 ]; then # "build DIRECTORY": as a process of its own, in which errexit holds
    "$@"
    exit
fi

if entry=$(cached "emulator-$(key "$here/emulator.sh" "$here/cache.sh")" "$0" build); then
    echo "$entry/qemu-system-x86_64"
else
    say "no QEMU from Debian's backports (the reason is above): emulating with the machine's own, which takes longer"
    command -v qemu-system-x86_64
fi
