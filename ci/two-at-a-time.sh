#!/usr/bin/env bash
# ci/two-at-a-time.sh KIND CARGO_ARGUMENT...: runs the tests */tests/KIND_*.rs, two files at a time,
# the biggest first, each in one thread: a file that is run alone takes as long as its longest test,
# with the other processor idle.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=$1
shift
# The whole workspace, then as now: alone, a crate has other features of what it uses, and much is
# compiled again.
cargo test "$@" --workspace --test "${kind}_*" --no-run
ls -S */tests/"$kind"_*.rs | xargs -n 1 basename -s .rs | xargs -P 2 -L 1 bash -c '
    arguments=("${@:1:$#-1}") name=${*: -1}
    start=$SECONDS status=0
    said=$(cargo test --quiet "${arguments[@]}" --workspace --test "$name" -- --show-output \
        --test-threads=1 2>&1) || status=1
    printf "%s, %s s\n%s\n" "$name" "$((SECONDS - start))" "$said"
    exit $status' two-at-a-time "$@"
