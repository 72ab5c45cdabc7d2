#!/usr/bin/env bash
# What the default build leaves out: dsm on the `shared_memory` crate.
set -euo pipefail
cd "$(dirname "$0")/.."
# Only what makes objects of the system knows of the feature.
tests=(--test conformance --test hostile_domain)
for test in dsm/tests/proc_*.rs; do
    tests+=(--test "$(basename "$test" .rs)")
done
cargo test -p dsm --features portable --lib "${tests[@]}"
cargo test -p dsm --features portable --doc
