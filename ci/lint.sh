#!/usr/bin/env bash
# Format and lints: of the code that ships, and of the code that models and explorer run.
set -euo pipefail
cd "$(dirname "$0")/.."
status=0

# Whether the cargo command $1 is there, or can be installed.
have() {
    cargo "$1" --version >/dev/null 2>&1 || rustup component add "$2" >/dev/null 2>&1 && return
    echo "not run: cargo $1 (component $2 is missing)"
    status=77
    return 1
}

if have fmt rustfmt; then
    cargo fmt --all --check
fi
if have clippy clippy; then
    cargo clippy --workspace --all-targets -- -D warnings
    crates=()
    for model in */tests/loom_*.rs; do crates+=(-p "${model%%/*}"); done
    CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom" RUSTFLAGS="${RUSTFLAGS:-} --cfg shm_loom" \
        cargo clippy "${crates[@]}" --all-targets -- -D warnings
    crates=()
    for model in */tests/shuttle_*.rs; do crates+=(-p "${model%%/*}"); done
    CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/shuttle" \
        RUSTFLAGS="${RUSTFLAGS:-} --cfg shm_loom --cfg shm_shuttle" \
        cargo clippy "${crates[@]}" --all-targets -- -D warnings
    crates=()
    for scenario in */tests/explore_*.rs; do crates+=(-p "${scenario%%/*}"); done
    CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/explore" \
        RUSTFLAGS="${RUSTFLAGS:-} --cfg shm_explore" \
        cargo clippy "${crates[@]}" --all-targets -- -D warnings
fi
exit "$status"
