#!/usr/bin/env bash
# The models: every interleaving of small cases, with deaths. SHM_DEEP=1 explores further.
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Beside the other models, and for a target that is named: what runs in the compiler has no part in
# the flags then, and is compiled once for all of them.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/models"
CARGO_BUILD_TARGET=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_BUILD_TARGET
export RUSTFLAGS="${RUSTFLAGS:-} --cfg shm_loom -D warnings" RUSTDOCFLAGS="${RUSTDOCFLAGS:-} --cfg shm_loom"
ci/two-at-a-time.sh loom --profile loom | tee "$log"
ran=$(awk '/^test result: ok/ { sum += $4 } END { print sum + 0 }' "$log")
echo "model tests run: $ran"
[ "$ran" -gt 0 ]
# The example of the engine's documentation.
cargo test --profile loom -p shm-testkit --doc model
