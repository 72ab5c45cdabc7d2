#!/usr/bin/env bash
# The build without features, where it does otherwise than the one with all, which ci/test.sh tests.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --profile crash -p dsm --test conformance without_its_feature
