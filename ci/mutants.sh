#!/usr/bin/env bash
# Changes the code on trial, one place at a time, and expects the tests to notice (cargo-mutants).
# Takes hours, so only with SHM_DEEP=1. Arguments go to cargo-mutants: `--file shm-core/src/event.rs`.
set -euo pipefail
cd "$(dirname "$0")/.."
not_run() { echo "not run: $*"; exit 77; }

[ "${SHM_DEEP:-}" = 1 ] || not_run "mutants take hours; SHM_DEEP=1 runs them"
if ! cargo mutants --version >/dev/null 2>&1; then
    timeout 900 cargo install --locked cargo-mutants || not_run "cargo-mutants cannot be installed"
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
survivors=$out/survivors tested=0
: >"$survivors"
for crate in relptr shm-core shm-mq; do
    # The kinds that are quick and that a change is likely to trip. Models are another build, and
    # the killer's sweeps take minutes each.
    tests=(--lib)
    for file in "$crate"/tests/{prop,proc,conformance,hostile}_*.rs; do
        [ ! -e "$file" ] || tests+=(--test "$(basename "$file" .rs)")
    done
    status=0
    # Hangs are caught by the time limit, which leaves room for a busy machine.
    CARGO_PROFILE_DEV_DEBUG=0 cargo mutants --package "$crate" --jobs 1 --timeout 300 \
        --build-timeout 600 --no-shuffle --output "$out/$crate" "$@" -- "${tests[@]}" || status=$?
    # 0: all caught; 2: some survived; 3: some ran out of time.
    case $status in 0 | 2 | 3) ;; *) echo "cargo-mutants ended with $status"; exit 1 ;; esac
    results=$out/$crate/mutants.out
    if [ -d "$results" ]; then
        cat "$results/missed.txt" >>"$survivors"
        tested=$((tested + $(cat "$results"/{caught,missed,timeout}.txt | wc -l)))
    fi
done

# A mutant by its name, without line and column: `path: what in which function`.
sed -E 's/^([^:]+):[0-9]+:[0-9]+: /\1: /' "$survivors" | sort | uniq -c | sort -k2 |
    awk -v tested="$tested" '
    FNR == NR {
        if ($0 !~ /^#/ && NF) { split($0, part, " ## "); allowed[part[2]] = part[1]; why[part[2]] = part[3] }
        next
    }
    {
        count = $1; sub(/^ *[0-9]+ /, ""); survived += count
        if (count > allowed[$0] + 0) { print "SURVIVED, not listed: " $0 " (" count ")"; bad++ }
        else if (why[$0] ~ /^open/) open += count
    }
    END {
        printf "mutants tested: %d, survived: %d, of them without a test yet: %d, not listed: %d\n",
            tested, survived, open, bad
        exit (bad > 0 || tested == 0)
    }' ci/mutants-equivalent.txt -
