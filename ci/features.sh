#!/usr/bin/env bash
# The build without features, where it does otherwise than the one with all, which ci/test.sh tests.
set -euo pipefail
cd "$(dirname "$0")/.."
# The whole workspace: as in ci/soak.sh.
cargo test --profile crash --workspace --test conformance without_its_feature
