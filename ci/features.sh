#!/usr/bin/env bash
# What the default build leaves out: dsm on the `shared_memory` crate.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test -p dsm --features portable
