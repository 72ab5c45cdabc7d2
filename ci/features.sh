#!/usr/bin/env bash
# What the default build leaves out: dsm on the `shared_memory` crate.
set -euo pipefail
cd "$(dirname "$0")/.."
# Only what makes objects of the system knows of the feature.
cargo test -p dsm --features portable --lib --test conformance --test proc_backend --test proc_domain
cargo test -p dsm --features portable --doc
