#!/usr/bin/env bash
# The liars: nonsense in shared memory, before calls and while they run. Then the same under
# AddressSanitizer, and the thread tests under ThreadSanitizer, where there is a nightly toolchain.
# SHM_DEEP=1 lies for longer.
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0

# Runs the tests and adds up what they say they tried.
run() {
    local what=$1
    shift
    echo "-- $what"
    "$@" -- --show-output >"$log" 2>&1 || { tail -100 "$log"; echo "FAILED: $what"; exit 1; }
    grep -E '^(liar|lies|hostile)' "$log" || true
    awk -v what="$what" '/^test result: ok/ { sum += $4 } END { print what ": " sum + 0 " tests"; exit !sum }' "$log"
}

# As ci/test.sh has built them.
run "on stable" cargo test --workspace --all-features --test 'hostile_*'

host=$(rustc -vV | sed -n 's/^host: //p')
if cargo +nightly --version >/dev/null 2>&1; then
    # One folder for both: what runs in the compiler is compiled once.
    export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/nightly"
    # Optimised, for lies come by the thousand. The planted ring without its check dies here too:
    # of the sanitizer's report, before it comes to a guard page.
    # With the cfg, a stream says which bytes it has given back.
    RUSTFLAGS="${RUSTFLAGS:-} -Zsanitizer=address --cfg shm_asan" \
        run "under AddressSanitizer" cargo +nightly test --profile crash --target "$host" \
        -p relptr -p shm-core -p shm-mq --test 'hostile_*'
    # The standard library is not instrumented: its channels look racy. Fences it does not know.
    suppressions=$(mktemp)
    printf '%s\n' 'race:test::' 'race:std::sync::mpmc' 'race:std::sync::mpsc' >"$suppressions"
    # Threads only: it does not support threads that are started after a fork. One test at a time:
    # of memory that is unmapped by one and mapped anew by another it does not hear, for these are
    # system calls without the C library.
    TSAN_OPTIONS="suppressions=$suppressions" SHM_TSAN=1 RUST_TEST_THREADS=1 \
        RUSTFLAGS="${RUSTFLAGS:-} -Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer --cfg shm_tsan" \
        run "under ThreadSanitizer" cargo +nightly test --profile crash --target "$host" \
        -p shm-core -p shm-mq --test stress_planted --test stress_stream
    rm -f "$suppressions"
else
    echo "not run: the sanitizers, for there is no nightly toolchain (rustup toolchain install nightly)"
    status=77
fi
exit "$status"
