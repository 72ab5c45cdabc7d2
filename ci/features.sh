#!/usr/bin/env bash
# What the default build leaves out: dsm on the `shared_memory` crate, shm-mq under runtimes and
# with serde.
set -euo pipefail
cd "$(dirname "$0")/.."
# Only what makes objects of the system knows of the feature.
cargo test -p dsm --features portable --lib --test conformance --test proc_backend --test proc_domain
cargo test -p dsm --features portable --doc
cargo test -p shm-mq --features async,serde --test proc_futures --test prop_typed \
    --test proc_broadcast --test proc_fan_in --test proc_rpc
cargo test -p shm-mq --features async,serde --doc futures
cargo run --quiet -p shm-mq --features async --example 10_tokio </dev/null
