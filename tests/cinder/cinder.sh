#!/bin/bash
# Runs COMMAND... with VOLATTACH_CINDER: a directory outside the checkout with a Cinder to copy and start, made from PyPI the first
# time: `venv`, and in `template` a database with its schema. Cinder asks a Keystone: VOLATTACH_KEYSTONE is set too (keystone.sh).
# Without a network it cannot be made: then this fails and says so, rather than leave the tests out.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

version=29.0.0 # the one that docs/cinder.md speaks of
place=${XDG_CACHE_HOME:-$HOME/.cache}/volattach/tools/cinder-$version
template=$place/template
log=$place/log

mkdir -p "${place%/*}"
exec 9>"$place.lock"
flock 9
if [ ! -e "$place/complete" ]; then
    echo "cinder: installing Cinder $version from PyPI into $place (once, 1-2 minutes)"
    rm -rf "$place"
    mkdir -p "$template"
    python3 -m venv "$place/venv"
    if ! "$place/venv/bin/pip" --quiet --disable-pip-version-check install "cinder==$version"; then
        echo "cinder: FAILED to install it: the command line is NOT tested with it; this needs PyPI or a mirror of it" >&2
        exit 1
    fi
    cat >"$template/setup.conf" <<CONF
[DEFAULT]
log_file = $log
state_path = $template
[database]
connection = sqlite:///$template/cinder.sqlite
CONF
    if ! PYTHONWARNINGS=ignore "$place/venv/bin/cinder-manage" --config-file "$template/setup.conf" db sync; then
        echo "cinder: FAILED to set it up (cinder-manage db sync); see $log" >&2
        exit 1
    fi
    touch "$place/complete"
fi
exec 9>&-
VOLATTACH_CINDER=$place exec tests/keystone/keystone.sh "$@"
