#!/usr/bin/env bash
# The explorer: the code that ships, under every schedule of small cases, with deaths, stops and
# lies. Fails where a structure was explored in fewer than 200,000 states. SHM_DEEP=1 goes further.
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# As in ci/loom.sh.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/models"
CARGO_BUILD_TARGET=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_BUILD_TARGET
export RUSTFLAGS="${RUSTFLAGS:-} --cfg shm_explore -D warnings" RUSTDOCFLAGS="${RUSTDOCFLAGS:-} --cfg shm_explore"
ci/two-at-a-time.sh explore --profile loom | tee "$log"
cargo test --profile loom --doc -p shm-testkit explore

# "explored STRUCTURE | CASE | N states, N steps, N deaths, N lies, N ends, …"
awk -F ' [|] ' '
    /^test result: ok/ { split($0, words, " "); tests += words[4] }
    /^explored toy / { next }
    /^explored / {
        name = substr($1, length("explored ") + 1)
        split($3, figures, /[^0-9]+/)
        cases[name]++
        for (i = 1; i <= 5; i++) { sum[name, i] += figures[i]; all[i] += figures[i] }
    }
    /^found / { planted++ }
    END {
        printf "\n%-16s %6s %10s %10s %9s %9s %8s\n", "structure", "cases", "states", "steps", \
            "deaths", "lies", "ends"
        for (name in cases) {
            printf "%-16s %6d %10d %10d %9d %9d %8d\n", name, cases[name], sum[name, 1], \
                sum[name, 2], sum[name, 3], sum[name, 4], sum[name, 5] | "sort"
            if (sum[name, 1] < 200000) { few = few " " name }
        }
        close("sort")
        printf "%d tests, %d states, %d steps, %d deaths, %d lies, %d ends; %d planted bugs found\n", \
            tests, all[1], all[2], all[3], all[4], all[5], planted
        if (few != "") { print "FAILED: fewer than 200000 states of:" few; exit 1 }
        if (length(cases) == 0) { print "FAILED: nothing was explored"; exit 1 }
    }' "$log"
