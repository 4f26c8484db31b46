#!/bin/bash
# Runs every check of the project, or with "check" all but the lab, and ends in one line of verdict. A stage that fails does not
# keep the next from running: one run tells all that is wrong. What each stage printed is kept in target/test-logs.
#
#   tests/all.sh [check]
#
# The stages that need no node run one after the other, beside the lab where there are two processors: its nodes leave them idle while
# they wait. The lab prints as it goes; the others print when they are done, so that no two stages' lines mix.
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

logs=target/test-logs
rm -rf "$logs"
mkdir -p "$logs"

# stage NAME COMMAND...: runs the command, shows and keeps what it prints, remembers whether it failed.
stage() {
    local name=$1 start=$SECONDS
    shift
    echo "==== $name: $*"
    "$@" 2>&1 | tee "$logs/$name.log"
    verdict "$name" "${PIPESTATUS[0]}" "$start"
}

# quiet NAME COMMAND...: the same, and shows what the command printed once it is done.
quiet() {
    local name=$1 start=$SECONDS status=0
    shift
    echo "==== $name: $*"
    "$@" >"$logs/$name.log" 2>&1 || status=$?
    cat "$logs/$name.log"
    verdict "$name" "$status" "$start"
}

# verdict NAME STATUS START
verdict() {
    if [ "$2" = 0 ]; then
        echo "==== $1: ok, $((SECONDS - $3)) s"
    else
        touch "$logs/$1.failed"
        echo "==== $1: FAILED, $((SECONDS - $3)) s"
    fi
}

# without_node HOW: the stages that need no node, by "stage" or "quiet".
without_node() {
    # Compiles for twenty minutes with cold caches, and has no deadlines; the lab's have to hold meanwhile.
    $1 lint nice -n 10 make --no-print-directory lint
    $1 cargo cargo test --locked --no-fail-fast
    $1 selinux make --no-print-directory selinux
    $1 oslo make --no-print-directory oslo-test
    $1 rules make --no-print-directory rules-test
    $1 keystone make --no-print-directory keystone-test
    $1 cinder make --no-print-directory cinder-test
    $1 python make --no-print-directory python-test
    $1 try make --no-print-directory try
}

case ${1-} in
check) without_node stage ;;
"")
    # In process groups of their own, which end with this script.
    set -m
    beside=()
    trap 'for group in "${beside[@]}"; do kill -- "-$group" 2>/dev/null; done' EXIT
    # The lab would make its image itself. Made beside the build, the image is complete when the lab starts; if that fails, the lab
    # tries again and reports the error.
    tests/lab/image.sh >"$logs/image.log" 2>&1 &
    beside+=($!)
    stage build cargo test --locked --no-run --lib --bins --test '*'
    wait "${beside[0]}"
    # One processor leaves none idle: the stages would only slow each other down, past the tests' deadlines.
    if [ "$(nproc)" = 1 ]; then
        without_node stage
        stage lab make --no-print-directory lab-test
    else
        without_node quiet &
        beside+=($!)
        stage lab make --no-print-directory lab-test
        wait "${beside[1]}"
    fi
    ;;
*)
    echo "usage: tests/all.sh [check]" >&2
    exit 2
    ;;
esac

# Sums up the closing line of every test binary: "test result: ok. 6 passed; 0 failed; 1 ignored; …". A test that found that it
# cannot run here says so in a line, and to its harness has passed.
read -r passed broken skipped < <(cat "$logs"/*.log | awk '
    /^test result: / { gsub(/;/, ""); passed += $4; broken += $6; skipped += $8 }
    /^SKIPPED: / { passed--; skipped++ }
    END { print passed + 0, broken + 0, skipped + 0 }')

echo "==== $((SECONDS / 60)) min $((SECONDS % 60)) s; logs in $logs"
failed=()
for mark in "$logs"/*.failed; do
    [ ! -e "$mark" ] || failed+=("$(basename "$mark" .failed)")
done
if [ "$passed" = 0 ]; then
    failed+=("no test ran")
fi
if [ ${#failed[@]} != 0 ]; then
    echo "==== FAILED: ${failed[*]}"
    [ "$broken" != 0 ] || broken=${#failed[@]} # a stage may fail without a failed test: it does not build, or lint
fi
echo "volattach: $passed passed, $broken failed, $skipped skipped"
[ ${#failed[@]} = 0 ]
