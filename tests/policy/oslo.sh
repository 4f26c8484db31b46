#!/bin/bash
# Runs COMMAND... with VOLATTACH_OSLO_PYTHON: a Python that has oslo.policy, outside the checkout, made from PyPI the first time.
# Without a network it cannot be made: then this fails and says so, rather than leave the comparison out.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

version=6.0.1 # the one that docs/policy.md speaks of
venv=${XDG_CACHE_HOME:-$HOME/.cache}/volattach/tools/oslo.policy-$version
mkdir -p "${venv%/*}"
exec 9>"$venv.lock"
flock 9
if [ ! -e "$venv/complete" ]; then
    echo "oslo: installing oslo.policy $version from PyPI into $venv (once, half a minute)"
    rm -rf "$venv"
    python3 -m venv "$venv"
    if ! "$venv/bin/pip" --quiet --disable-pip-version-check install "oslo.policy==$version"; then
        echo "oslo: FAILED to install oslo.policy: policies are NOT compared with it; this needs PyPI or a mirror of it" >&2
        exit 1
    fi
    touch "$venv/complete"
fi
exec 9>&-
VOLATTACH_OSLO_PYTHON=$venv/bin/python exec "$@"
