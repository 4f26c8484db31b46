#!/bin/bash
# os-brick, the library with which OpenStack's nodes connect volumes: what `make bench` compares with.
#
#   dir=$(tests/lab/os_brick.sh)     # half a minute the first time, then at once
#
# Prints one line, a directory for Python's path.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/cache.sh"

version=7.1.1

build() {
    say "fetching os-brick $version (once, half a minute)"
    if ! python3 -m pip --version >/dev/null 2>&1; then
        local root=()
        [ "$(id -u)" = 0 ] || root=(sudo)
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends python3-pip >&2
    fi
    python3 -m pip install --quiet --no-warn-conflicts --root-user-action ignore --target "$1" "os-brick==$version" >&2
}

cached "os-brick-$(cd "$here" && key os_brick.sh)" build
