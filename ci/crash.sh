#!/usr/bin/env bash
# Processes are killed, stopped and forked at every instruction of the operations on shared memory.
# SHM_DEEP=1 leaves no instruction out. The code is optimised, as what ships, with its assertions.
# SHM_CRASH_LOG, if set, is where the figures go, one line a run; docs/crash-model.md is made of them.
set -euo pipefail
cd "$(dirname "$0")/.."
crates=()
for test in */tests/crash_*.rs; do crates+=(-p "${test%%/*}"); done
log=${SHM_CRASH_LOG:-$(mktemp)}
[ -n "${SHM_CRASH_LOG:-}" ] || trap 'rm -f "$log"' EXIT
: >"$log"
SHM_CRASH_LOG=$(realpath "$log") SHM_KILL_POINTS=${SHM_KILL_POINTS:-1000000} \
    cargo test --profile crash "${crates[@]}" --test 'crash_*' -- --test-threads=2
awk -F '\t' '
    $3 == "not run" { refused++; next }
    { runs++; points += $5; missed += $8; drifted += $9; by_mode[$2] += $5 }
    $3 == "sample" { sampled++ }
    END {
        printf "crash: %d runs, %d points:", runs, points
        for (mode in by_mode) printf " %s %d", mode, by_mode[mode]
        printf "; %d missed, %d drifted; %d runs are samples\n", missed, drifted, sampled
        if (refused) printf "not run: %d runs, for no child may be traced here\n", refused
        exit refused ? 77 : runs ? 0 : 1
    }' "$log"
