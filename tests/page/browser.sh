#!/bin/sh
# Gets Chromium and axe-core where they are missing, then looks at the page over canned daemons. SHOW is built by the caller.
# usage: browser.sh SHOW OUT
set -eu

AXE=4.14.1
here=$(dirname "$0")
tools=${XDG_CACHE_HOME:-$HOME/.cache}/volattach/tools

sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
command -v chromium >/dev/null || {
	echo "web-test: installing chromium (once)"
	$sudo apt-get install -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
}
axe=$tools/axe-core-$AXE
[ -e "$axe/package/axe.min.js" ] || {
	command -v npm >/dev/null || $sudo apt-get install -qq --no-install-recommends npm >/dev/null
	mkdir -p "$axe"
	(cd "$axe" && npm pack --silent "axe-core@$AXE" >/dev/null && tar -xzf "axe-core-$AXE.tgz" package/axe.min.js)
}
exec python3 "$here/browser.py" "$1" "$axe/package/axe.min.js" "$2"
