#!/usr/bin/env bash
# The table of docs/reinforcement.md: recipes/reinforcement.toml for each seed. `scripts/reinforcement.sh DIR [SEED...]`; without
# seeds it is 0, 1 and 2. A run that was stopped goes on. BYLAW names the program, if it is not to be built.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$1
shift
[ $# -gt 0 ] || set -- 0 1 2
[ -n "${BYLAW:-}" ] || cargo build --release
bylaw=${BYLAW:-target/release/bylaw}
mkdir -p "$out"
for seed in "$@"; do
    "$bylaw" run recipes/reinforcement.toml --seed "$seed" --out "$out/seed-$seed"
done
python3 scripts/plots/reinforcement.py "$out" "$@"
