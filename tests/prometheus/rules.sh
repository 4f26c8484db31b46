#!/bin/bash
# Checks the alert rules, runs their tests, and reads the text of metrics_file, all by promtool: this machine's, or Debian's.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"

if ! promtool=$(command -v promtool); then
    programs=$(../lab/prometheus.sh)
    promtool=$programs/promtool
fi

"$promtool" check rules ../../dist/usr/share/volattach/prometheus/volattach.rules.yml
"$promtool" test rules volattach.rules.test.yml
# Each rule has a test that names it.
for alert in $(sed -n 's/.*- alert: //p' ../../dist/usr/share/volattach/prometheus/volattach.rules.yml); do
    grep -q "$alert" volattach.rules.test.yml || { echo "rules: no test of $alert"; exit 1; }
done
# As the node exporter does, and with more to find fault with. The snapshots' heads are not a part of the text.
awk 'FNR == 1 { head = 0 } head > 1; /^---$/ { head++ }' \
    ../../src/app/metrics/snapshots/*{the_file_is_of_the_format_0_0_4,the_io_is_text_of_either_format}.snap | "$promtool" check metrics
echo "rules: the rules hold, and the figures' text is read"
