#!/usr/bin/env bash
# Eight processes use a domain for 30 s (SHM_DEEP=1: ten minutes); one is killed every 50 ms.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "${SHM_DEEP:-}" = 1 ] || export SHM_SOAK_SECONDS=${SHM_SOAK_SECONDS:-30}
cargo test --profile crash -p dsm --test soak_domain -- --nocapture
