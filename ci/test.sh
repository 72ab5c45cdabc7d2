#!/usr/bin/env bash
# The test command of the README.
set -euo pipefail
cd "$(dirname "$0")/.."
# ci/crash.sh, with optimised code, tries more instructions.
export SHM_KILL_POINTS="${SHM_KILL_POINTS:-100}"
cargo test --workspace
