#!/usr/bin/env bash
# Every numbered example of every crate runs, and ends by itself; so does the pool's benchmark.
set -euo pipefail
cd "$(dirname "$0")/.."
# As ci/test.sh has built what they use.
cargo build --workspace --all-features --examples
ran=0
for file in */examples/[0-9]*.rs; do
    example=$(basename "$file" .rs)
    echo "-- ${file%%/*} $example"
    timeout --kill-after=5 60 "${CARGO_TARGET_DIR:-target}/debug/examples/$example" </dev/null
    ran=$((ran + 1))
done
# It builds its files, and each client checks every row.
echo "-- buffer-pool pgbench"
timeout --kill-after=5 60 "${CARGO_TARGET_DIR:-target}/debug/examples/pgbench" </dev/null
echo "examples run: $ran"
[ "$ran" -gt 0 ]
