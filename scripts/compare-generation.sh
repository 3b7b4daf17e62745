#!/usr/bin/env bash
# Generation, judging and revision side by side: bylaw, transformers and llama.cpp on one machine, with
# the same random weights of SmolLM2-135M's shape and the same prompts. Runs alternate; the table has medians.
#
#     scripts/compare-generation.sh BYLAW_BENCH WORK_DIR [LLAMA_BIN_DIR]
#
# BYLAW_BENCH    the example `generation_bench`, built for release; `-` leaves bylaw out
# WORK_DIR       model, prompts and runs; what is missing is made. runs.jsonl is appended to: a second
#                call adds rounds, so remove it to start anew
# LLAMA_BIN_DIR  where llama-batched-bench is (scripts/compare/build-llama.sh makes it); without it,
#                llama.cpp is left out
#
# Environment: PYTHON (with scripts/compare/requirements.txt; default python3), ROUNDS (5), THREADS (2),
# TASKS ("a8 a32 judge revise"), DTYPES ("f32 bf16 q8_0"), PEERS ("bylaw transformers llama.cpp"),
# PAIRS (200, of task judge), ROWS (64, of task revise), MAX_LOAD (0.5: waits until the machine is that idle
# before it starts; `any` does not wait), LLAMA_FLAGS (more flags for llama-batched-bench).
#
# How the sides are timed. Loading is outside the clock everywhere, EOS is off everywhere, decoding is
# greedy. bylaw: `BYLAW_BENCH --model M --dtype D --threads N --task T --prompts FILE`, where M is the
# directory hf, or q8_0.gguf; it prints one JSON line with seconds, prefill_seconds, decode_seconds,
# new_tokens, prompt_tokens. If its --help has `--completions`, it also writes its results there, and the
# table says whether they are those of transformers. transformers: scripts/compare/generation_peer.py,
# batch size tuned once. llama.cpp: llama-batched-bench takes one length, so its prompts all have the mean
# length; it takes random tokens, is spared the choice of the next token, and keeps its cache in f16.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)/compare
bylaw=${1:?usage: scripts/compare-generation.sh BYLAW_BENCH WORK_DIR [LLAMA_BIN_DIR]}
work=${2:?usage: scripts/compare-generation.sh BYLAW_BENCH WORK_DIR [LLAMA_BIN_DIR]}
llama=${3:-}
python=${PYTHON:-python3}
rounds=${ROUNDS:-5}
threads=${THREADS:-2}
tasks=${TASKS:-a8 a32 judge revise}
dtypes=${DTYPES:-f32 bf16 q8_0}
peers=${PEERS:-bylaw transformers llama.cpp}
sizes="${PAIRS:-200} ${ROWS:-64}"
max_load=${MAX_LOAD:-0.5}

if [ "$bylaw" != - ] && ! [ -x "$bylaw" ]; then
  echo "no program at $bylaw; build it with: cargo build --release --example generation_bench" >&2
  exit 2
fi
if [ -n "$llama" ] && ! [ -x "$llama/llama-batched-bench" ]; then
  echo "no llama-batched-bench in $llama; build it with: scripts/compare/build-llama.sh DIR" >&2
  exit 2
fi

mkdir -p "$work/out" "$work/prompts"
[ -e "$work/hf/model.safetensors" ] || "$python" "$here/smollm_shape.py" "$work"
if [ "$(cat "$work/prompts/sizes" 2>/dev/null)" != "$sizes" ]; then
  "$python" "$here/generation_prompts.py" "$work/hf" "$work/prompts" --pairs "${PAIRS:-200}" --rows "${ROWS:-64}" >&2
  echo "$sizes" > "$work/prompts/sizes"
fi

wait_for_quiet() {
  [ "$max_load" = any ] && return
  local load
  while load=$(cut -d' ' -f1 /proc/loadavg) && awk -v l="$load" -v m="$max_load" 'BEGIN { exit !(l > m) }'; do
    echo "load $load, waiting for $max_load" >&2
    sleep 20
  done
}

record() { # TASK PEER DTYPE, figures on stdin: one line in runs.jsonl, or a message
  "$python" -c '
import json, sys
task, peer, dtype, threads, round_ = sys.argv[1:]
lines = [line for line in sys.stdin if line.startswith("{")]
if not lines:
    sys.exit(f"{peer} {task} {dtype}: no figures")
run = {"task": task, "peer": peer, "dtype": dtype, "threads": int(threads), "round": int(round_)}
print(json.dumps({**run, **json.loads(lines[-1])}))
' "$1" "$2" "$3" "$threads" "$round" | tee -a "$work/runs.jsonl" >&2
}

run_bylaw() { # TASK DTYPE
  local model=$work/hf completions=()
  [ "$2" = q8_0 ] && model=$work/q8_0.gguf
  [ -n "$bylaw_completions" ] && completions=(--completions "$work/out/bylaw-$1-$2.jsonl")
  "$bylaw" --model "$model" --dtype "$2" --threads "$threads" --task "$1" --prompts "$work/prompts/$1.jsonl" \
    "${completions[@]}" | record "$1" bylaw "$2"
}

peer() { # TASK DTYPE [FLAGS]
  local task=$1 dtype=$2
  shift 2
  "$python" "$here/generation_peer.py" --model "$work/hf" --dtype "$dtype" --threads "$threads" --task "$task" \
    --prompts "$work/prompts/$task.jsonl" "$@"
}

tuned_batch() { # TASK DTYPE: the batch size that suits transformers, found once
  local file=$work/tuned-$1-$2-$threads.json
  [ -e "$file" ] || { peer "$1" "$2" --tune > "$file.tmp" && mv "$file.tmp" "$file" && cat "$file" >&2; }
  "$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["batch"])' "$file"
}

run_transformers() { # TASK DTYPE
  local batch
  batch=$(tuned_batch "$1" "$2")
  peer "$1" "$2" --batch "$batch" --sort --completions "$work/out/transformers-$1-$2.jsonl" |
    record "$1" transformers "$2"
  if [ "$1" = judge ]; then
    peer "$1" "$2" --batch "$batch" | record "$1" "transformers unsorted" "$2"
  fi
}

run_llama() { # TASK DTYPE: 63 decoding steps, for the prefill gives the first of the 64 tokens
  local rows mean
  read -r rows mean < <("$python" -c '
import json, sys
task = json.load(open(sys.argv[1]))[sys.argv[2]]
print(task["rows"], task["mean"])' "$work/prompts/summary.json" "$1")
  "$llama/llama-batched-bench" -m "$work/$2.gguf" -c $((rows * (mean + 64))) -b 2048 -ub 512 -t "$threads" \
    -tb "$threads" -npp "$mean" -ntg 63 -npl "$rows" --output-format jsonl ${LLAMA_FLAGS:-} 2>"$work/llama.log" |
    "$python" -c '
import json, sys
run = json.loads([line for line in sys.stdin if line.startswith("{")][-1])
print(json.dumps({"seconds": run["t"], "prefill_seconds": run["t_pp"], "decode_seconds": run["t_tg"],
                  "new_tokens": run["pl"] * 64, "prompt_tokens": run["pl"] * run["pp"]}))' |
    record "$1" llama.cpp "$2"
}

applies() { # PEER TASK DTYPE
  case $1 in
    bylaw) [ "$bylaw" != - ] && { [ "$3" != q8_0 ] || [[ $2 = a* ]]; } ;;
    transformers) [ "$3" != q8_0 ] ;;
    llama.cpp) [ -n "$llama" ] && [[ $2 = a* ]] ;;
    *) echo "no peer is called $1" >&2; exit 2 ;;
  esac
}

bylaw_completions=
if [ "$bylaw" != - ] && "$bylaw" --help 2>&1 | grep -q -- --completions; then
  bylaw_completions=yes
fi

wait_for_quiet
cc -O3 -march=native -pthread "$here/bandwidth.c" -o "$work/bandwidth"
counts=(1)
[ "$threads" -gt 1 ] && counts+=("$threads")
"$work/bandwidth" "${counts[@]}" > "$work/bandwidth.jsonl"
for task in $tasks; do
  for ((round = 1; round <= rounds; round++)); do
    for dtype in $dtypes; do
      for name in $peers; do
        applies "$name" "$task" "$dtype" || continue
        case $name in
          bylaw) run_bylaw "$task" "$dtype" ;;
          transformers) run_transformers "$task" "$dtype" ;;
          llama.cpp) run_llama "$task" "$dtype" ;;
        esac || echo "$name $task $dtype failed; left out" >&2
      done
    done
  done
done
{
  echo "$(date -u +%F), $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs), $(nproc) cores, $threads threads," \
    "$rounds rounds, load at the end $(cut -d' ' -f1 /proc/loadavg)"
  echo
  "$python" "$here/generation_table.py" "$work"
} | tee "$work/table.md"
