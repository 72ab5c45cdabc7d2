#!/usr/bin/env bash
# Format and lints.
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
    # The models' and the explorer's own code is built with warnings denied where they run.
    # SHM_DEEP=1: clippy too.
    for kind in ${SHM_DEEP:+loom shuttle explore}; do
        crates=()
        for test in */tests/"$kind"_*.rs; do crates+=(-p "${test%%/*}"); done
        flags="--cfg shm_$kind"
        [ "$kind" != shuttle ] || flags+=" --cfg shm_loom"
        CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/$kind" RUSTFLAGS="${RUSTFLAGS:-} $flags" \
            cargo clippy "${crates[@]}" --all-targets -- -D warnings
    done
fi
exit "$status"
