#!/usr/bin/env bash
# Models with too many schedules for loom: a sample of them, with random deaths, by shuttle.
# SHM_DEEP=1 samples twenty times as many; SHM_SEED=… repeats a sample that failed.
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# As in ci/loom.sh.
host=$(rustc -vV | sed -n 's/^host: //p')
CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/models" CARGO_BUILD_TARGET=$host \
    RUSTFLAGS="${RUSTFLAGS:-} --cfg shm_loom --cfg shm_shuttle -D warnings" \
    ci/two-at-a-time.sh shuttle --profile loom | tee "$log"

# "STRUCTURE, CASE: Tried { executions: N, deaths: N, kill_points: N }"
awk '
    /^test result: ok/ { tests += $4 }
    /: Tried \{ executions: / {
        figures = $0
        sub(/.*executions: /, "", figures)
        split(figures, n, /[^0-9]+/)
        schedules += n[1]
        deaths += n[2]
    }
    /^found: / { planted++ }
    END {
        printf "\n%d tests, %d schedules, %d deaths; %d times a planted bug was found\n", \
            tests, schedules, deaths, planted
        if (schedules == 0 || deaths == 0) { print "FAILED: nothing was sampled"; exit 1 }
    }' "$log"
