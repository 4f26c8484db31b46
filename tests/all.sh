#!/bin/bash
# Runs every check of the project, one stage after the other, and ends in one line of verdict. A stage that fails does
# not keep the next from running: one run tells all that is wrong. What each stage printed is kept in target/test-logs.
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

logs=target/test-logs
rm -rf "$logs"
mkdir -p "$logs"
failed=()

# stage NAME COMMAND...: runs the command, shows and keeps what it prints, remembers whether it failed.
stage() {
    local name=$1 start=$SECONDS
    shift
    echo "==== $name: $*"
    if "$@" 2>&1 | tee "$logs/$name.log"; then
        echo "==== $name: ok, $((SECONDS - start)) s"
    else
        failed+=("$name")
        echo "==== $name: FAILED, $((SECONDS - start)) s"
    fi
}

stage lint make --no-print-directory lint
stage cargo cargo test --locked --no-fail-fast
stage selinux make --no-print-directory selinux
stage oslo make --no-print-directory oslo-test
stage keystone make --no-print-directory keystone-test
stage try make --no-print-directory try
stage lab make --no-print-directory lab-test

# Sums up the closing line of every test binary: "test result: ok. 6 passed; 0 failed; 1 ignored; …". A test that found that it
# cannot run here says so in a line, and to its harness has passed.
read -r passed broken skipped < <(cat "$logs"/*.log | awk '
    /^test result: / { gsub(/;/, ""); passed += $4; broken += $6; skipped += $8 }
    /^SKIPPED: / { passed--; skipped++ }
    END { print passed + 0, broken + 0, skipped + 0 }')

echo "==== $((SECONDS / 60)) min $((SECONDS % 60)) s; logs in $logs"
if [ "$passed" = 0 ]; then
    failed+=("no test ran")
fi
if [ ${#failed[@]} != 0 ]; then
    echo "==== FAILED: ${failed[*]}"
    [ "$broken" != 0 ] || broken=${#failed[@]} # a stage may fail without a failed test: it does not build, or lint
fi
echo "volattach: $passed passed, $broken failed, $skipped skipped"
[ ${#failed[@]} = 0 ]
