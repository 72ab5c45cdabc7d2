#!/usr/bin/env bash
# Processes use a buffer pool, then a domain, then the queues, for 12 s each (SHM_DEEP=1: ten
# minutes); one is killed every few milliseconds.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "${SHM_DEEP:-}" = 1 ] || export SHM_SOAK_SECONDS=${SHM_SOAK_SECONDS:-12}
# The whole workspace, of which only these are built: alone, a crate has other features of what it
# uses, and much is compiled again.
cargo test --profile crash --workspace --test 'soak_*' -- --nocapture
