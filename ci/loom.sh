#!/usr/bin/env bash
# The models: every interleaving of small cases, with deaths (loom); then a sample of schedules of
# large ones (shuttle). SHM_DEEP=1 explores further; SHM_SEED=… repeats a sample.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# The tests $1_* of all crates that have some, built with the cfgs $2.
run() {
    local crates=()
    for model in */tests/"$1"_*.rs; do crates+=(-p "${model%%/*}"); done
    CARGO_TARGET_DIR="$target/$1" RUSTFLAGS="${RUSTFLAGS:-} $2" \
        cargo test --profile loom "${crates[@]}" --test "$1_*" -- --show-output 2>&1 | tee "$log"
    local ran
    ran=$(awk '/^test result: ok/ { sum += $4 } END { print sum + 0 }' "$log")
    echo "$1 tests run: $ran"
    [ "$ran" -gt 0 ]
}

run loom "--cfg shm_loom"
# The example of the engine's documentation.
CARGO_TARGET_DIR="$target/loom" RUSTFLAGS="${RUSTFLAGS:-} --cfg shm_loom" \
    RUSTDOCFLAGS="${RUSTDOCFLAGS:-} --cfg shm_loom" \
    cargo test --profile loom -p shm-testkit --doc model
run shuttle "--cfg shm_loom --cfg shm_shuttle"
