#!/usr/bin/env bash
# Pre-trains the bundled model from scratch on the proving ground: documents, tokenizer, random weights, SFT.
# One command, seeded; about 15 minutes on two cores. Usage: scripts/train-tiny.sh WORK_DIR
# Then copy WORK_DIR/tiny over models/tiny and build again. BYLAW names another binary.
set -euo pipefail
work=${1:?usage: scripts/train-tiny.sh WORK_DIR}
root=$(cd "$(dirname "$0")/.." && pwd)
bylaw=$(realpath "${BYLAW:-$root/target/release/bylaw}")
mkdir -p "$work"
cd "$work"

"$bylaw" --seed 11 world documents --count "${DOCUMENTS:-165000}" --out documents
"$bylaw" --seed 11 world documents --count 20000 --out tokenizer-documents
[ -e random/config.json ] ||
  "$bylaw" --seed 1 model new --config "$root/scripts/tiny.config.json" --tokenizer-data tokenizer-documents --out random
"$bylaw" --seed 3 train sft --model random --data documents --out f32 \
  --batch-tokens 2560 --prompt-loss-weight 0.1 --learning-rate 2.5e-3 --lr-scheduler cosine --warmup-steps 80 \
  --min-lr-ratio 0.03 --adam-beta2 0.98 --weight-decay 0.1
[ -e tiny/config.json ] || "$bylaw" model cast f32 --to f16 --out tiny

# Its log, thinned, and what it can do on held-out prompts, beside the weights.
awk 'NR % 50 == 1' f32/metrics.jsonl > tiny/train-log.jsonl
"$bylaw" world prompts --split evaluation --harmful 200 --benign 150 --out held-out
{
  "$bylaw" --json eval policy --model tiny --prompts held-out --policy base --max-new-tokens 96 --out eval-policy
  "$bylaw" --json eval judge --model tiny --constitution builtin:proving-ground --out eval-judge
} > tiny/figures.json
