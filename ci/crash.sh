#!/usr/bin/env bash
# Processes are killed, stopped and forked at every instruction of the operations on shared memory.
# The code is optimised, as what ships, with its assertions.
#
# ci/crash.sh [--write] [crash_NAME...]: all crash tests, or those, at up to SHM_KILL_POINTS points
# of an operation: states that a death can leave, and others. SHM_DEEP=1 leaves out no death
# that leaves something new, and --write puts its figures into docs/crash-model.md.
# SHM_CRASH_LOG, if set, is where the figures go, one line a run.
set -euo pipefail
cd "$(dirname "$0")/.."
document=docs/crash-model.md
write=
[ "${1:-}" != --write ] || { write=1 && shift; }
if [ -n "$write" ] && [ "${SHM_DEEP:-}" != 1 ]; then
    echo "--write is for SHM_DEEP=1 only" >&2
    exit 2
fi
# The biggest first: two run at a time.
tests=()
while read -r file; do
    name=$(basename "$file" .rs)
    [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
    tests+=("$name")
done < <(ls -S */tests/crash_*.rs)
[ "${#tests[@]}" -gt 0 ] || { echo "no such crash test: $*" >&2; exit 2; }
log=${SHM_CRASH_LOG:-$(mktemp)}
[ -n "${SHM_CRASH_LOG:-}" ] || trap 'rm -f "$log"' EXIT
: >"$log"
log=$(realpath "$log")
export SHM_CRASH_LOG=$log SHM_KILL_POINTS=${SHM_KILL_POINTS:-40}
# The whole workspace, then as now: alone, a crate has other features of what it uses, and much is
# compiled again.
cargo test --profile crash --workspace "${tests[@]/#/--test=}" --no-run
# Each run stays on one processor: two of them are not to choose the same.
printf '%s\n' "${tests[@]}" | xargs -P 2 -L 1 --process-slot-var=SLOT bash -c '
    cpus=$(nproc) && keep=(taskset -c $((SLOT % cpus))) && "${keep[@]}" true 2>/dev/null || keep=()
    said=$("${keep[@]}" cargo test --quiet --profile crash --workspace --test "$0" 2>&1) && status=0 || status=1
    printf "%s\n" "$0" "$said"
    exit $status'
awk -F '\t' '
    $3 == "not run" { refused++; next }
    { runs++; points += $5; missed += $8; drifted += $9; by_mode[$2] += $5 }
    $3 == "sample" || $3 == "calls" { sampled++ }
    END {
        printf "crash: %d runs, %d points:", runs, points
        for (mode in by_mode) printf " %s %d", mode, by_mode[mode]
        printf "; %d missed, %d drifted; %d runs are samples\n", missed, drifted, sampled
        if (refused) printf "not run: %d runs, for no child may be traced here\n", refused
        exit refused ? 77 : runs ? 0 : 1
    }' "$log"
[ -n "$write" ] || exit 0
# The rows of this run, and of an earlier one those that this one did not make anew.
[ $# -gt 0 ] && old=$document || old=/dev/null
awk -F '\t' '
    FILENAME != ARGV[1] {
        if (/^<!-- .*ci\/crash.sh/) inside = 1
        if (/^<!-- end/) inside = 0
        if (inside && /^\| [^-]/ && split($0, cells, " [|] ") && cells[1] != "| scenario")
            if (!((cells[1] " | " cells[2]) in rows)) rows[cells[1] " | " cells[2]] = $0
        next
    }
    $1 ~ /planted/ { next }
    {
        gsub(",", "`, `", $13)
        key = "| " $1 " | " $2
        rows[key] = sprintf("%s | %d | %d | %d | %d, %s | %d | %d | `%s` |", key, $4, $6, $7, $5,
            $3, $8, $10, $13)
    }
    END { for (key in rows) print rows[key] | "LC_ALL=C sort" }
' "$log" "$old" >"$log.rows"
awk -v rows="$log.rows" '
    /^<!-- end/ { inside = 0 }
    !inside { print }
    /^<!-- .*ci\/crash.sh/ {
        inside = 1
        print "| scenario | mode | instructions | worlds | images | points | missed | findings | operations |"
        print "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        while ((getline row <rows) > 0) print row
    }' "$document" >"$log.document"
mv "$log.document" "$document"
rm "$log.rows"
