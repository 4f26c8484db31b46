#!/bin/bash
# Runs COMMAND... with VOLATTACH_KEYSTONE: a directory outside the checkout with a Keystone to copy and start, made from PyPI the
# first time: `venv`, and in `template` a database with its schema and an administrator, and keys.
# Without a network it cannot be made: then this fails and says so, rather than leave the tests out.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."

version=30.0.0 # the one that docs/identity.md speaks of
gunicorn=23.0.0
place=${XDG_CACHE_HOME:-$HOME/.cache}/volattach/tools/keystone-$version
template=$place/template
log=$place/log

mkdir -p "${place%/*}"
exec 9>"$place.lock"
flock 9
if [ ! -e "$place/complete" ]; then
    echo "keystone: installing Keystone $version from PyPI into $place (once, 1-2 minutes)"
    rm -rf "$place"
    mkdir -p "$template"
    python3 -m venv "$place/venv"
    if ! "$place/venv/bin/pip" --quiet --disable-pip-version-check install "keystone==$version" "gunicorn==$gunicorn"; then
        echo "keystone: FAILED to install it: tokens are NOT tested with it; this needs PyPI or a mirror of it" >&2
        exit 1
    fi
    cat >"$template/setup.conf" <<CONF
[DEFAULT]
log_file = $log
[database]
connection = sqlite:///$template/keystone.db
[identity]
password_hash_rounds = 4
[fernet_tokens]
key_repository = $template/fernet-keys
[credential]
key_repository = $template/credential-keys
CONF
    mkdir -m 700 "$template/fernet-keys" "$template/credential-keys"
    manage() {
        if ! PYTHONWARNINGS=ignore "$place/venv/bin/keystone-manage" --config-file "$template/setup.conf" "$@"; then
            echo "keystone: FAILED to set it up (keystone-manage $1); see $log" >&2
            exit 1
        fi
    }
    user=$(id -un) group=$(id -gn)
    manage db_sync
    manage fernet_setup --keystone-user "$user" --keystone-group "$group"
    manage credential_setup --keystone-user "$user" --keystone-group "$group"
    # The password protects nothing: the database is copied, served on loopback for a test, and thrown away.
    manage bootstrap --bootstrap-password hunter2-of-keystone # PASSWORD of tests/keystone/fixture.rs
    touch "$place/complete"
fi
exec 9>&-
VOLATTACH_KEYSTONE=$place exec "$@"
