#!/usr/bin/env bash
# Processes use a domain, then the queues, then a buffer pool, for 12 s each (SHM_DEEP=1: ten
# minutes); one is killed every few milliseconds.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "${SHM_DEEP:-}" = 1 ] || export SHM_SOAK_SECONDS=${SHM_SOAK_SECONDS:-12}
cargo test --profile crash -p dsm --test soak_domain -- --nocapture
cargo test --profile crash -p shm-mq --test soak_messages -- --nocapture
cargo test --profile crash -p buffer-pool --test soak_pool -- --nocapture
