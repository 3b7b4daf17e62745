#!/usr/bin/env bash
# The figures and plots of docs/length-bias.md: three runs of recipes/length-controls.toml, audits of the bundled judge and of recorded
# verdicts. `scripts/length-bias.sh DIR [DATA]`; DATA holds llmbar/ and pandalm/, whose verdicts are left out without it.
# Needs Python with scripts/plots/requirements.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$1
data=${2:-}
[ -n "${BYLAW:-}" ] || cargo build --release
bylaw=${BYLAW:-target/release/bylaw}
mkdir -p "$out"
for seed in 0 1 2; do
    "$bylaw" run recipes/length-controls.toml --seed "$seed" --out "$out/seed-$seed" --json >"$out/seed-$seed.json"
done
"$bylaw" world pairs --split evaluation --count 1200 --seed 3 --out "$out/pairs" -q
"$bylaw" audit --model builtin:tiny --constitution builtin:proving-ground --pairs "$out/pairs/pairs.jsonl" \
    --most-pairs 1200 --padding builtin:proving-ground --out "$out/audit" --json >"$out/audit.json"
"$bylaw" audit --model builtin:tiny --constitution builtin:proving-ground --candidates "$out/seed-0/sample" \
    --padding builtin:proving-ground --out "$out/audit-candidates" --json >"$out/audit-candidates.json"
for seed in 0 1 2; do
    "$bylaw" eval judge --model builtin:tiny --constitution builtin:proving-ground --pairs 1200 --seed "$seed" \
        --balanced "$out/seed-$seed/residual" --out "$out/judge-$seed" --json >"$out/judge-$seed.json"
done
if [ -n "$data" ]; then
    for name in natural.gpt4-vanilla neighbor.gpt4-vanilla mt-bench.chatgpt-vanilla; do
        "$bylaw" audit --verdicts "$data/llmbar/$name.json" --json >"$out/recorded-$name.json"
    done
    "$bylaw" audit --verdicts "$data/pandalm/gpt-3.5-turbo-testset-v1.json" --answers "$data/pandalm/testset-v1.json" \
        --json >"$out/recorded-pandalm.gpt-3.5.json"
fi
python3 scripts/plots/length_bias.py "$out" docs
