"""Prints the tables of docs/reinforcement.md: `reinforcement.py DIR [SEED...]`, DIR as scripts/reinforcement.sh left it.

One row a policy: means over the seeds, and in brackets the seeds' own where there are several. Rates are of the ground
truth on held-out prompts; KL is in nats a completion (for best-of-16 the bound log 16 - 15/16); the reward is that of
the model that was learnt from. Then what the monitor saw of each run: its first and its last evaluations, and its alarms.
"""

import json
import sys
from pathlib import Path

POLICIES = ["sft", "dpo", "dpo-rounded", "ppo", "ppo-loose", "grpo", "rloo", "best-of-16"]
WATCHED = ["ppo", "ppo-loose", "grpo", "rloo"]
# Evaluations averaged at either end.
WINDOW = 5


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def policy(run, name):
    path = run / f"eval-{name}" / "eval.json"
    if not path.exists():
        return None
    result = json.loads(path.read_text())["result"]
    figures, answers = result["figures"], result["answers"]
    rewards = [answer["reward"] for answer in answers if answer.get("reward") is not None]
    return {
        "harmful": 100 * figures["harmful"],
        "evasive": 100 * figures["evasive"],
        "helpful": 100 * figures["helpful"],
        "wrong": 100 * figures["wrong"],
        "tokens": figures["mean_tokens"],
        "KL": figures["kl"],
        "reward": sum(rewards) / len(rewards) if rewards else None,
    }


def cell(values, digits):
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    shown = f"{sum(values) / len(values):.{digits}f}"
    return shown if len(values) == 1 else f"{shown} ({', '.join(f'{value:.{digits}f}' for value in values)})"


def mean(rows, name):
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else float("nan")


def policies(runs):
    columns = {"harmful": 1, "evasive": 1, "helpful": 1, "wrong": 1, "tokens": 1, "KL": 2, "reward": 2}
    print("| policy | harmful % | evasive % | helpful % | wrong % | tokens | KL | reward |\n|---|---|---|---|---|---|---|---|")
    for name in POLICIES:
        found = [row for row in (policy(run, name) for run in runs) if row]
        if found:
            cells = [cell([row[column] for row in found], digits) for column, digits in columns.items()]
            print(f"| {name} | {' | '.join(cells)} |")


def monitors(runs):
    print("\n| run | seed | proxy | held-out | sqrt(KL) | entropy | distinct-2 | boilerplate | first alarm |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in WATCHED:
        for run in runs:
            rows = [row for row in lines(run / name / "metrics.jsonl") if "monitor/proxy_reward" in row]
            if not rows:
                continue
            alarms = lines(run / name / "alarms.jsonl")
            first = f"iteration {alarms[0]['step'] + 1} of {rows[-1]['step'] + 1}: {alarms[0]['alarm']}" if alarms else "-"
            ends = [
                f"{mean(rows[:WINDOW], column):.2f} to {mean(rows[-WINDOW:], column):.2f}"
                for column in (
                    "monitor/proxy_reward",
                    "monitor/held_out_reward",
                    "monitor/sqrt_kl",
                    "monitor/entropy",
                    "monitor/distinct_2",
                    "monitor/boilerplate",
                )
            ]
            print(f"| {name} | {run.name.removeprefix('seed-')} | {' | '.join(ends)} | {first} |")
    for name in WATCHED:
        for run in runs:
            for alarm in lines(run / name / "alarms.jsonl"):
                print(f"\n{name}, {run.name}, iteration {alarm['step'] + 1}: {alarm['alarm']}: {alarm['reason']}")


def main():
    out, seeds = Path(sys.argv[1]), sys.argv[2:] or ["0", "1", "2"]
    runs = [out / f"seed-{seed}" for seed in seeds]
    policies(runs)
    monitors(runs)


if __name__ == "__main__":
    main()
