#!/usr/bin/env bash
# Changes the code on trial, one place at a time, and expects the tests to notice (cargo-mutants).
# Takes hours, so only with SHM_DEEP=1; else only the list of survivors is held against the code.
# Arguments go to cargo-mutants: `--file shm-core/src/event.rs`. Results stay in target/mutants.
set -euo pipefail
cd "$(dirname "$0")/.."
not_run() { echo "not run: $*"; exit 77; }

listed=$PWD/ci/mutants-equivalent.txt out=$PWD/target/mutants tree=$PWD/target/mutants/tree
crates=(relptr shm-core shm-mq)
# Code of other builds, AddressSanitizer's and the explorer's, is not compiled here.
skip=(--exclude shm-core/src/poison.rs --exclude-re 'replace allocate -> ')
if ! cargo mutants --version >/dev/null 2>&1; then
    [ "${SHM_DEEP:-}" = 1 ] || not_run "no cargo-mutants; SHM_DEEP=1 installs and runs it"
    timeout 900 cargo install --locked cargo-mutants || not_run "cargo-mutants cannot be installed"
fi

# An entry whose code is gone would one day excuse another mutant of that name.
cargo mutants --list --line-col=false "${skip[@]}" "${crates[@]/#/--package=}" | awk -F ' ## ' '
    FNR == NR { if ($0 !~ /^#/ && NF) { entries++; survive[$2] += $1 } next }
    { exist[$0]++ }
    END {
        for (name in survive) if (survive[name] > exist[name]) {
            printf "LISTED, but no such mutant: %s (%d of %d)\n", name, exist[name], survive[name]
            gone++
        }
        printf "entries in the list of survivors: %d, of them without a mutant: %d\n", entries, gone
        exit (gone > 0)
    }' "$listed" -
[ "${SHM_DEEP:-}" = 1 ] || not_run "mutants take hours; SHM_DEEP=1 runs them"

# The mutants are made in a copy. All its files are new, lest a mutant's build be taken for theirs.
mkdir -p "$tree"
find "$tree" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} +
git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -xm -C "$tree"
rm -rf "${crates[@]/#/$out/}"
mkdir "${crates[@]/#/$out/}"
export CARGO_PROFILE_DEV_DEBUG=0
unset SHM_DEEP # The tests' own depth is the short one.

# Tries what $of/left.txt names against some kinds of tests, and leaves there what they missed.
pass() {
    local crate=$1 limit=$2 results=$of/$3 targets=("${@:3}") only=() status=0 name
    while read -r name; do
        only+=("--re=^$(sed 's/[][\.*^$+?(){}|]/\\&/g' <<<"$name")\$")
    done <"$of/left.txt"
    [ ${#only[@]} -gt 0 ] || return 0
    mkdir "$results"
    cargo mutants --dir "$tree" --in-place --package "$crate" --timeout "$limit" --no-shuffle \
        --build-timeout 600 --output "$results" "${targets[@]/#/--cargo-arg=}" "${only[@]}" ||
        status=$?
    # 0: all caught; 2: some survived; 3: some ran out of time.
    case $status in 0 | 2 | 3) ;; *) echo "cargo-mutants ended with $status"; return 1 ;; esac
    cp "$results/mutants.out/missed.txt" "$of/left.txt"
}

# Prints what came of it, also where it ended before its time. Fails on a survivor not listed.
figures() {
    local of kind name log failed
    for of in "${crates[@]/#/$out/}"; do
        touch "$of/all.txt"
        for kind in caught timeout unviable missed; do
            # cargo-mutants also tries some that nobody asked for: deleted fields.
            find "$of" -path "*/mutants.out/$kind.txt" -exec cat {} + | sort -u |
                comm -12 - "$of/all.txt" >"$of/$kind.txt"
        done
        # What one pass missed a later one may have caught.
        sort -u "$of"/{caught,timeout}.txt | comm -13 - "$of/missed.txt" >"$of/survived.txt"
        sort -u "$of"/{caught,timeout,unviable,missed}.txt | comm -13 - "$of/all.txt" \
            >"$of/not-tried.txt"
        while read -r name; do
            log=$(grep -rlxF -e "*** $name" "$of"/*/mutants.out/log | tail -1)
            failed=$(grep -c '^test .* FAILED$' "$log" || true)
            echo "ran out of time, $failed tests having failed: $name"
        done <"$of/timeout.txt"
        sed 's/^/NOT TRIED: /' "$of/not-tried.txt"
        printf '%s:' "${of##*/}"
        for kind in all unviable caught timeout survived not-tried; do
            printf ' %s %d' "$kind" "$(wc -l <"$of/$kind.txt")"
        done
        echo
    done
    # A mutant by its name, without line and column: `path: what in which function`.
    for of in "${crates[@]/#/$out/}"; do
        sed 's/^/survived ## /' "$of/survived.txt"
        comm -23 "$of/all.txt" "$of/not-tried.txt" | sed 's/^/tried ## /'
    done | sed -E 's/:[0-9]+:[0-9]+: /: /' | awk -F ' ## ' '
        FNR == NR { if ($0 !~ /^#/ && NF) { allowed[$2] += $1; why[$2] = $3 } next }
        $1 == "tried" { tried[$2]++; next }
        { survived[$2]++; count++ }
        END {
            for (name in survived)
                if (survived[name] > allowed[name] + 0) {
                    printf "SURVIVED, not listed: %s (%d)\n", name, survived[name]
                    bad++
                } else if (why[name] ~ /^open/) open += survived[name]
            for (name in allowed)
                if (name in tried && survived[name] < allowed[name])
                    print "listed, but some test notices it: " name
            printf "survived: %d, of them without a test yet: %d, not listed: %d\n",
                count, open, bad
            exit (bad > 0)
        }' "$listed" -
}

trap 'echo "ended before its time: what survived has not met every test"; figures || true' EXIT
for crate in "${crates[@]}"; do
    of=$out/$crate
    cargo mutants --dir "$tree" --list "${skip[@]}" --package "$crate" "$@" | sort >"$of/all.txt"
    cp "$of/all.txt" "$of/left.txt"
    # The quick tests first. Models are another build, and the killer's sweeps take minutes each.
    # Hangs are caught by the time limit, which leaves room for a busy machine.
    others=()
    for file in "$crate"/tests/{conformance,hostile,proc}_*.rs; do
        # Its example is not built where tests are named.
        [ "${file##*/}" != proc_hello.rs ] || continue
        [ ! -e "$file" ] || others+=("--test=$(basename "$file" .rs)")
    done
    pass "$crate" 30 --lib
    pass "$crate" 120 "--test=prop_*"
    pass "$crate" 300 "${others[@]}"
done
trap - EXIT
[ -s "$out/relptr/all.txt" ] || [ -s "$out/shm-core/all.txt" ] || [ -s "$out/shm-mq/all.txt" ] || {
    echo "no mutant of that description"
    exit 1
}
figures
