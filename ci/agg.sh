#!/usr/bin/env bash
# End to end: the main job with workers killed as they work, on each backend. The answer is right,
# and nothing is left behind. RUNS=20 repeats it.
set -euo pipefail
cd "$(dirname "$0")/.."

# Temporary files of the job go here, so that what stays can be told from what others made.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/tmp" "$scratch/data"

# What a run could leave: segments, files, processes.
traces() {
    { ls -A /dev/shm 2>/dev/null || true; } | sed 's|^|/dev/shm/|'
    if [ -r /proc/sysvipc/shm ]; then
        awk 'NR > 1 { print "sysv segment " $2 " of process " $5 }' /proc/sysvipc/shm
    fi
    find "$scratch/tmp" -mindepth 1
    for exe in /proc/[0-9]*/exe; do
        case $(readlink "$exe" || true) in */shmctl*) echo "process ${exe//[^0-9]/}" ;; esac
    done
}

# Whether the JSON in file $1 is what a run on backend $2 has to say.
check() {
    if command -v python3 >/dev/null; then
        python3 - "$1" "$2" <<'PY'
import json, sys
with open(sys.argv[1]) as file:
    said = json.load(file)
print({key: said[key] for key in ("backend", "workers", "kills", "rows", "groups", "seconds")})
assert said["verified"] is True, "not verified"
assert said["kills"] >= 5, "fewer than five kills"
assert said["backend"] == sys.argv[2], "another backend"
assert min(said["rows"], said["groups"], said["workers"]) > 0, "nothing was done"
PY
    else
        grep -Eq '"verified": *true' "$1" && grep -Eq '"kills": *([5-9]|[1-9][0-9]+)\b' "$1" &&
            grep -Eq "\"backend\": *\"$2\"" "$1"
    fi
}

# With its assertions, and half compiled already: as the crash tests, and of the workspace, as they.
cargo build --profile crash --workspace --bin shmctl
shmctl=${CARGO_TARGET_DIR:-target}/crash/shmctl
traces | sort >"$scratch/before"
for run in $(seq "${RUNS:-1}"); do
    for backend in posix sysv mmap memfd; do
        echo "-- run $run, $backend"
        TMPDIR="$scratch/tmp" timeout --kill-after=5 120 "$shmctl" \
            agg --data-dir "$scratch/data" --chaos --verify --json --backend "$backend" \
            </dev/null >"$scratch/json"
        check "$scratch/json" "$backend" || { cat "$scratch/json"; exit 1; }
        traces | sort | comm -13 "$scratch/before" - >"$scratch/left"
        if [ -s "$scratch/left" ]; then
            echo "left behind:"
            cat "$scratch/left"
            exit 1
        fi
    done
done
