#!/usr/bin/env bash
# Everything that a change must pass: format, lints, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo fmt --check
cargo clippy --all-targets -- --deny warnings
cargo test
# Datasets and exports in pyarrow, polars and Hugging Face datasets.
scripts/compare/open.sh
