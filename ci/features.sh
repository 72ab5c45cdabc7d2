#!/usr/bin/env bash
# What the default build leaves out: dsm on the `shared_memory` crate.
set -euo pipefail
cd "$(dirname "$0")/.."
# Deaths at every instruction know nothing of the feature: ci/crash.sh has them.
tests=()
for test in dsm/tests/*.rs; do
    name=$(basename "$test" .rs)
    case $name in crash_* | explore_* | loom_* | shuttle_*) ;; *) tests+=(--test "$name") ;; esac
done
cargo test -p dsm --features portable --lib "${tests[@]}"
cargo test -p dsm --features portable --doc
