#!/usr/bin/env bash
# Fuzzes a parser with a stable compiler: libFuzzer, coverage from LLVM's own pass.
#
#     scripts/fuzz.sh [TARGET] [SECONDS]
#
# TARGET is one of fuzz/fuzz_targets (default: constitution), SECONDS defaults to 300. The corpus begins with the shipped
# constitutions and grows in fuzz/corpus/TARGET, which git ignores. Needs a C++ compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-constitution}
seconds=${2:-300}

corpus=fuzz/corpus/$target
mkdir -p "$corpus"
cp constitutions/*.toml prompts/few-shots/*.toml "$corpus"

export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing"
# An explicit target keeps build scripts and macros free of the instrumentation.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --manifest-path fuzz/Cargo.toml --target "$host" --bin "$target"
"fuzz/target/$host/release/$target" "$corpus" -dict="fuzz/$target.dict" -max_total_time="$seconds" -max_len=20000 \
  -timeout=10 -print_final_stats=1
