#!/usr/bin/env bash
# The soak: eight processes do all there is to do in a domain, and every 50 ms one is killed. It
# takes SHM_SOAK_SECONDS, 30 by default, and 600 with SHM_DEEP=1. Its seed is printed, and
# SHM_SOAK_SEED repeats it.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "${SHM_DEEP:-}" = 1 ] || export SHM_SOAK_SECONDS=${SHM_SOAK_SECONDS:-30}
cargo test -p dsm --test soak_domain -- --nocapture
