#!/usr/bin/env bash
# DPO on the judge's soft labels beside DPO on the same labels rounded to 1: for every seed of `scripts/reinforcement.sh DIR`, whose
# labels and SFT policies are taken. `scripts/soft-labels.sh DIR [SEED...]`; BYLAW names the program, if it is not to be built.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$1
shift
[ $# -gt 0 ] || set -- 0 1 2
[ -n "${BYLAW:-}" ] || cargo build --release
bylaw=${BYLAW:-target/release/bylaw}
for seed in "$@"; do
    run=$out/seed-$seed
    "$bylaw" -q data convert "$run/balance" --to jsonl --out "$run/rounded"
    python3 - "$run/rounded" <<'PY'
import json, pathlib, sys
for path in pathlib.Path(sys.argv[1]).glob("data/*.jsonl"):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["p_chosen"] = 1.0
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
PY
    # The settings of the stage `dpo` in recipes/reinforcement.toml.
    "$bylaw" -q train dpo --model "$run/sft" --data "$run/rounded/data/*.jsonl" --epochs 1 --beta 0.1 --sft-coef 0.5 \
        --learning-rate 2e-4 --warmup-steps 5 --min-lr-ratio 0.1 --adam-beta2 0.98 --seed "$seed" --out "$run/dpo-rounded"
    "$bylaw" -q eval policy --model "$run/dpo-rounded" --reference "$run/sft" --prompts "$run/held-out" --policy dpo-rounded \
        --reward-model "$run/reward" --max-new-tokens 96 --seed "$seed" --out "$run/eval-dpo-rounded"
    for policy in dpo dpo-rounded; do
        echo "seed $seed, $policy: $(cat "$run/eval-$policy/eval.json" | python3 -c '
import json, sys
figures = json.load(sys.stdin)["result"]["figures"]
print(json.dumps(figures))')"
    done
done
