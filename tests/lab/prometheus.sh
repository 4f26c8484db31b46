#!/bin/bash
# Debian's Prometheus and its promtool, only unpacked: to install the package would start a Prometheus on this machine.
#
#   programs=$(tests/lab/prometheus.sh)     # some 5 s and 19 MB the first time, then at once
#
# Prints one line, the directory of both programs (98 MB); all else goes to stderr.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/cache.sh"

build() {
    say "fetching Debian's package prometheus (19 MB, once)"
    cd "$1"
    if ! apt-get -qq download prometheus 2>/dev/null; then
        local root=()
        [ "$(id -u)" = 0 ] || root=(sudo)
        "${root[@]}" apt-get -qq update
        apt-get -qq download prometheus
    fi
    dpkg --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 ./usr/bin/prometheus ./usr/bin/promtool
    rm prometheus_*.deb
    chmod 755 .
    ./prometheus --version
}

if [ $# = 2 ]; then # "build DIRECTORY": as a process of its own, in which errexit holds
    "$@"
    exit
fi

cached "prometheus-$(key "$here/prometheus.sh" "$here/cache.sh")" "$0" build
