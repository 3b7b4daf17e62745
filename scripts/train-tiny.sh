#!/usr/bin/env bash
# Pre-trains the bundled model from scratch on the proving ground: documents, tokenizer, random weights, SFT.
# One command, seeded; about 25 minutes on two cores. Usage: scripts/train-tiny.sh WORK_DIR
# Then copy WORK_DIR/tiny over models/tiny and build again.
set -euo pipefail
work=${1:?usage: scripts/train-tiny.sh WORK_DIR}
bylaw=${BYLAW:-target/release/bylaw}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work"

"$bylaw" --seed 11 world documents --count "${DOCUMENTS:-165000}" --out "$work/documents"
"$bylaw" --seed 11 world documents --count 20000 --out "$work/tokenizer-documents"
[ -e "$work/random/config.json" ] ||
  "$bylaw" --seed 1 model new --config "$here/tiny.config.json" --tokenizer-data "$work/tokenizer-documents" --out "$work/random"
"$bylaw" --seed 3 train sft --model "$work/random" --data "$work/documents" --out "$work/f32" \
  --batch-tokens 2560 --prompt-loss-weight 0.1 --learning-rate 2.5e-3 --lr-scheduler cosine --warmup-steps 80 \
  --min-lr-ratio 0.03 --adam-beta2 0.98 --weight-decay 0.1
"$bylaw" model cast "$work/f32" --to f16 --out "$work/tiny"

# Its log, thinned, and what it can do on held-out prompts, beside the weights.
awk 'NR % 50 == 1' "$work/f32/metrics.jsonl" > "$work/tiny/train-log.jsonl"
"$bylaw" world prompts --split evaluation --harmful 200 --benign 150 --out "$work/held-out"
{
  "$bylaw" --json eval policy --model "$work/tiny" --prompts "$work/held-out" --policy base --max-new-tokens 96 \
    --out "$work/eval-policy"
  "$bylaw" --json eval judge --model "$work/tiny" --constitution builtin:proving-ground --out "$work/eval-judge"
} > "$work/tiny/figures.json"
