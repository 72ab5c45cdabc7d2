#!/usr/bin/env bash
# Memory that lies, to every structure: on stable, then under AddressSanitizer and, for the thread
# tests, ThreadSanitizer, both with nightly. SHM_DEEP=1 tries 25 times as many lies. Ends with 77
# where a part was not run.
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
host=x86_64-unknown-linux-gnu
crates=()
for test in */tests/hostile_*.rs; do crates+=(-p "${test%%/*}"); done
mapfile -t crates < <(printf '%s\n' "${crates[@]}" | awk '$0 != "-p" && !seen[$0]++ { print "-p"; print }')
[ "${#crates[@]}" -gt 0 ] || { echo "FAILED: there are no hostile tests"; exit 1; }

# Adds up what the trials in the log say.
figures() {
    awk -v what="$1" '/^hostile .*: [0-9]+ seeds/ {
        for (i = 2; i <= NF; i++) {
            if ($i == "lies,") lies += $(i - 1)
            if ($i == "calls,") calls += $(i - 1)
        }
    }
    /^test result: ok/ { tests += $4 }
    END { print "hostile, " what ": " tests " tests, " lies + 0 " lies, " calls + 0 " calls"
          exit tests == 0 }' "$log"
}

cargo test "${crates[@]}" --test 'hostile_*' -- --show-output | tee "$log"
figures stable

if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "not run: AddressSanitizer, ThreadSanitizer: no nightly (rustup toolchain install nightly)"
    exit 77
fi
if [ "$(cargo +nightly -vV | awk '/^host:/ { print $2 }')" != "$host" ]; then
    echo "not run: AddressSanitizer, ThreadSanitizer: only on $host"
    exit 77
fi

# Leaks are looked for elsewhere: children that are killed leak by design.
ASAN_OPTIONS="detect_leaks=0" CARGO_PROFILE_TEST_DEBUG=line-tables-only \
    CARGO_PROFILE_DEV_DEBUG=line-tables-only CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/asan" \
    RUSTFLAGS="${RUSTFLAGS:-} -Zsanitizer=address --cfg shm_asan" \
    cargo +nightly test --target "$host" "${crates[@]}" --test 'hostile_*' -- --show-output >"$log" 2>&1 ||
    { tail -n 100 "$log"; echo "FAILED: under AddressSanitizer"; exit 1; }
figures AddressSanitizer

TSAN_OPTIONS="suppressions=$PWD/ci/tsan.supp" CARGO_PROFILE_TEST_DEBUG=line-tables-only \
    CARGO_PROFILE_DEV_DEBUG=line-tables-only CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/tsan" \
    RUSTFLAGS="${RUSTFLAGS:-} -Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer --cfg shm_tsan" \
    cargo +nightly test --target "$host" -p shm-core -p shm-mq --test 'stress_*' --test 'hostile_race*' \
    -- --show-output >"$log" 2>&1 ||
    { tail -n 100 "$log"; echo "FAILED: under ThreadSanitizer"; exit 1; }
figures ThreadSanitizer
