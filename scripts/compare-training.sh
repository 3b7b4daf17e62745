#!/usr/bin/env bash
# Training steps side by side: bylaw and TRL on one machine, with the same random weights of SmolLM2-135M's shape and
# the same batches of tokens. Runs alternate; the tables have medians.
#
#     scripts/compare-training.sh TRAINING_BENCH WORK_DIR
#
# TRAINING_BENCH  the example `training_bench`, built for release
# WORK_DIR        model, batches and runs; what is missing is made. runs.jsonl is appended to: a second call adds
#                 rounds, so remove it to start anew
#
# Environment: PYTHON (with scripts/compare/requirements-trl.txt; default python3), ROUNDS (3), STEPS (4: of each run
# the first is not counted), THREADS (2), TASKS ("sft reward dpo lora"), DTYPES ("f32 bf16"), BATCH (4), TOKENS (512),
# GENERATIONS (4), PEERS ("bylaw trl trl-tuned bylaw-lean trl-lean"), MAX_LOAD (0.5: waits until the machine is that idle before each
# run; `any` does not wait).
#
# trl is TRL as it comes; trl-tuned has the settings of glibc's allocator that help it (freed memory is kept, as bylaw
# does for itself); the -lean ones save memory: bylaw recomputes activations, TRL does so too and computes the
# log-probabilities of the reference beforehand. bf16 is mixed precision on both sides. Weights, gradients
# and moments are f32, the optimiser is AdamW, gradients are clipped.
#
# Two tasks more are a whole iteration, drawing included: `online` is GRPO on both sides, BATCH prompts of TOKENS/2 tokens
# with GENERATIONS answers each, which all have TOKENS/2 tokens, one update; `ppo` is bylaw's PPO with as many answers and
# one epoch (TRL 1.16 has none). A rule gives the rewards.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)/compare
bench=${1:?usage: scripts/compare-training.sh TRAINING_BENCH WORK_DIR}
work=${2:?usage: scripts/compare-training.sh TRAINING_BENCH WORK_DIR}
python=${PYTHON:-python3}
rounds=${ROUNDS:-3}
threads=${THREADS:-2}
batch=${BATCH:-4}
tokens=${TOKENS:-512}
steps=${STEPS:-4}
generations=${GENERATIONS:-4}
max_load=${MAX_LOAD:-0.5}

if ! [ -x "$bench" ]; then
  echo "no program at $bench; build it with: cargo build --release --example training_bench" >&2
  exit 2
fi
mkdir -p "$work"
[ -e "$work/hf/model.safetensors" ] || "$python" "$here/smollm_shape.py" "$work"
"$python" "$here/training_rows.py" "$work/rows" --rows "$batch" --tokens "$tokens" --steps "$steps"

wait_for_quiet() {
  [ "$max_load" = any ] && return
  local load
  while load=$(cut -d' ' -f1 /proc/loadavg) && awk -v l="$load" -v m="$max_load" 'BEGIN { exit !(l > m) }'; do
    echo "load $load, waiting for $max_load" >&2
    sleep 20
  done
}

record() { # PEER TASK DTYPE, figures on stdin: one line in runs.jsonl, or a message
  "$python" -c '
import json, sys
peer, task, dtype, threads, batch, tokens = sys.argv[1:]
lines = [line for line in sys.stdin if line.startswith("{\"")]
if not lines:
    sys.exit(f"{peer} {task} {dtype}: no figures")
run = {"peer": peer, "task": task, "dtype": dtype, "threads": int(threads), "batch": int(batch), "tokens": int(tokens)}
print(json.dumps({**run, **json.loads(lines[-1])}))
' "$1" "$2" "$3" "$threads" "$batch" "$tokens" | tee -a "$work/runs.jsonl" >&2
}

run() { # PEER TASK DTYPE
  local rows=$work/rows/pairs.jsonl lean=()
  case $2 in
    sft | lora) rows=$work/rows/sft.jsonl ;;
    online | ppo) rows=$work/rows/prompts.jsonl ;;
  esac
  case $1 in *-lean) lean=(--lean) ;; esac
  local flags=(--model "$work/hf" --task "$2" --rows "$rows" --dtype "$3" --batch "$batch" --threads "$threads" "${lean[@]}")
  flags+=(--new-tokens "$((tokens / 2))" --generations "$generations")
  case $1 in
    bylaw*) "$bench" "${flags[@]}" ;;
    trl-tuned) MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=67108864 \
      "$python" "$here/training_peer.py" "${flags[@]}" 2> "$work/peer.log" ;;
    trl*) "$python" "$here/training_peer.py" "${flags[@]}" 2> "$work/peer.log" ;;
    *) echo "no peer is called $1" >&2; exit 2 ;;
  esac
}

for ((round = 1; round <= rounds; round++)); do
  for task in ${TASKS:-sft reward dpo lora}; do
    for dtype in ${DTYPES:-f32 bf16}; do
      for peer in ${PEERS:-bylaw trl trl-tuned bylaw-lean trl-lean}; do
        wait_for_quiet
        run "$peer" "$task" "$dtype" | record "$peer" "$task" "$dtype" || echo "$peer $task $dtype failed; left out" >&2
      done
    done
  done
done
{
  echo "$(date -u +%F), $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs), $(nproc) cores, $threads threads," \
    "$batch x $tokens tokens, $rounds rounds, load at the end $(cut -d' ' -f1 /proc/loadavg)"
  echo
  "$python" "$here/training_table.py" "$work"
} | tee "$work/training.md"
