#!/usr/bin/env bash
# Every numbered example of every crate runs, and ends by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
ran=0
for file in */examples/[0-9]*.rs; do
    [ -e "$file" ] || continue
    crate=${file%%/*}
    example=$(basename "$file" .rs)
    # One that needs a feature: ci/features.sh.
    [ "$example" != 10_tokio ] || continue
    cargo build --quiet -p "$crate" --example "$example"
    echo "-- $crate $example"
    timeout --kill-after=5 60 cargo run --quiet -p "$crate" --example "$example" </dev/null
    ran=$((ran + 1))
done
echo "examples run: $ran"
[ "$ran" -gt 0 ]
