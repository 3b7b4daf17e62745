#!/usr/bin/env bash
# The figures of docs/constitutions.md, "Does a principle do what it says?": what harm survives one round of revision under the
# six narrow principles of the proving ground, and without each of them; for the bundled model, and for one that was taught
# to tell these principles apart. `scripts/narrow-principles.sh BYLAW DIR`: about five minutes on two idle cores; what is there
# already is not made again. PROMPTS says how many harmful questions, 4000 unless given. Needs Python 3.
set -euo pipefail
bylaw=$(realpath "${1:?usage: scripts/narrow-principles.sh BYLAW DIR}")
out=${2:?usage: scripts/narrow-principles.sh BYLAW DIR}
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$out"
cd "$out"
narrow=(no-spying no-stealing no-cheating no-lying no-bullying no-vandalism)

"$bylaw" -q --seed 7 world documents --mixture "$root/scripts/narrow-principles.toml" --count "${DOCUMENTS:-24000}" --out documents
"$bylaw" -q --seed 7 train sft --model builtin:tiny --data documents --out taught \
    --batch-tokens 2560 --prompt-loss-weight 0.1 --learning-rate 2e-3 --lr-scheduler cosine --warmup-steps 20 \
    --min-lr-ratio 0.05 --adam-beta2 0.98 --weight-decay 0.1
"$bylaw" -q --seed 7 world prompts --split evaluation --harmful "${PROMPTS:-4000}" --benign 0 --out prompts

general='"harmless", "hurts-nobody", "no-bad-acts", "not-evasive"'
constitution() {
    printf 'name = "%s"\nversion = "1.0.0"\nextends = ["builtin:proving-ground"]\nremove = [%s]\n' "$1" "$2" >"$1.toml"
}
constitution all "$general"
for principle in "${narrow[@]}"; do
    constitution "without-$principle" "$general, \"$principle\""
done

revise() { # MODEL NAME CONSTITUTION ROUNDS
    "$bylaw" -q --seed 3 revise --model "$1" --constitution "$3" --prompts prompts --rounds "$4" \
        --max-new-tokens 96 --critique-max-new-tokens 64 --cache cache --out "$2"
    "$bylaw" -q eval policy --revisions "$2" --policy "$2" --out "$2-eval" >"$2-eval.txt"
}
for model in tiny taught; do
    [ $model = tiny ] && reference=builtin:tiny || reference=taught
    revise "$reference" "$model-first" all.toml 0
    revise "$reference" "$model-all" all.toml 1
    "$bylaw" -q data convert "$model-all" --to jsonl --out "$model-all-jsonl"
    for principle in "${narrow[@]}"; do
        revise "$reference" "$model-without-$principle" "without-$principle.toml" 1
    done
done

for model in tiny taught; do
    python3 "$root/scripts/plots/narrow_principles.py" "$model"
done
# What else the taught model may have forgotten.
"$bylaw" -q world prompts --split evaluation --harmful 200 --benign 400 --out held-out
for model in builtin:tiny taught; do
    name=${model#*:}
    "$bylaw" -q eval policy --model "$model" --prompts held-out --policy "$name" --max-new-tokens 96 --out "eval-$name" --json
    "$bylaw" -q eval judge --model "$model" --constitution builtin:proving-ground --out "judge-$name" --json
done
"$bylaw" constitution show all.toml --usage taught-all
"$bylaw" constitution show all.toml --usage taught-without-no-stealing
