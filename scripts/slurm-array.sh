#!/usr/bin/env bash
# A Slurm array: each task does one part of a bylaw command that takes --shard.
#
#   sbatch --array=0-7 --gres=gpu:1 scripts/slurm-array.sh run recipe.toml --out /shared/run
#   sbatch --array=0-7 scripts/slurm-array.sh judge --model http://node1:8000/v1,http://node2:8000/v1#name ... --out /shared/labels
#
# The directory must be one that all nodes see. A stage command's parts go to OUT/part-I-of-N: put them
# together with `bylaw data merge OUT/part-* --out LABELS`. A run merges its own: `bylaw run recipe.toml --out
# /shared/run`, after the array (sbatch --dependency=afterok:JOB), and then the array again if it goes on
# with stages that can be divided. A task that was preempted or ran out of time goes on where it was when
# it is queued again: each part is a job of its own.
#
#SBATCH --job-name=bylaw
#SBATCH --requeue
# Ctrl-C for bylaw, five minutes before the time is up: it finishes its unit of work and stops.
#SBATCH --signal=INT@300
#SBATCH --output=bylaw-%A_%a.log
set -euo pipefail

index=${SLURM_ARRAY_TASK_ID:?"start this with sbatch --array=0-7"}
first=${SLURM_ARRAY_TASK_MIN:-0}
count=${SLURM_ARRAY_TASK_COUNT:?"start this with sbatch --array"}
part=$((index - first))/$count

command=("$@")
if [[ $1 != run ]]; then
    for i in "${!command[@]}"; do
        if [[ ${command[i]} == --out ]]; then
            command[i + 1]+=/part-$((index - first))-of-$count
        fi
    done
fi
exec "${BYLAW:-bylaw}" --log-format json "${command[@]}" --shard "$part"
