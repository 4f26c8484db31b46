#!/bin/bash
# Tests the Python client: its package, built and installed as pip does, calls a daemon of target/debug.
#
#   clients/python/tests/run.sh [TEST...]   such as test_daemon.Restarts
#
# VOLATTACH_BINARIES names another directory of binaries. The tools are installed from PyPI once, outside the checkout.
# Without a network they cannot be: then this fails and says so, rather than leave the tests out.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

version=1 # one more with each change of the packages below
tools=${XDG_CACHE_HOME:-$HOME/.cache}/volattach/tools/python-client-$version

mkdir -p "${tools%/*}"
exec 9>"$tools.lock"
flock 9
if [ ! -e "$tools/complete" ]; then
    echo "python: installing what the client is made of from PyPI into $tools (once, seconds)"
    rm -rf "$tools"
    python3 -m venv "$tools"
    pip=("$tools/bin/pip" --quiet --disable-pip-version-check install)
    # Of grpcio-tools protoc alone is used. Its dependencies would keep protobuf at the oldest major version that the client runs with.
    if ! { "${pip[@]}" --requirement tests/requirements.txt &&
        "${pip[@]}" --no-deps "$(sed -n 's/^requires.*"\(grpcio-tools==[^"]*\)".*/\1/p' pyproject.toml)"; }; then
        echo "python: FAILED to install it: the client is NOT tested; this needs PyPI or a mirror of it" >&2
        exit 1
    fi
    touch "$tools/complete"
fi
exec 9>&-

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -rL . "$work/source" # setuptools builds beside its sources
"$tools/bin/pip" --quiet --disable-pip-version-check install --no-build-isolation --no-deps --target "$work/site" "$work/source"

export VOLATTACH_BINARIES=${VOLATTACH_BINARIES:-$(readlink -f ../..)/target/debug}
export PYTHONPATH=$work/site PYTHONDONTWRITEBYTECODE=1
cd tests
"$tools/bin/python" -W error::ResourceWarning verdict.py "$@"
