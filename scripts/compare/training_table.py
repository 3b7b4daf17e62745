"""Medians and ratios of the runs of scripts/compare-training.sh, as Markdown.

    training_table.py WORK_DIR     reads WORK_DIR/runs.jsonl

A step's seconds are the median over all counted steps of all rounds; memory is the largest peak resident set. Ratios
are TRL's figure over ours (the faster of TRL's runs, the leanest of them).
"""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

PEERS = ["bylaw", "trl", "trl-tuned", "bylaw-lean", "trl-lean"]


def main():
    runs = [json.loads(line) for line in (Path(sys.argv[1]) / "runs.jsonl").read_text().splitlines()]
    seconds, bytes_ = defaultdict(list), defaultdict(list)
    for run in runs:
        key = run["task"], run["dtype"]
        seconds[*key, run["peer"]] += run["seconds"]
        bytes_[*key, run["peer"]].append(run["peak_bytes"])
    kinds = list(dict.fromkeys((run["task"], run["dtype"]) for run in runs))

    def table(title, of, best):
        print(f"{title}\n")
        print("| task | type | " + " | ".join(PEERS) + " | TRL / bylaw |")
        print("|---|---|" + "---|" * (len(PEERS) + 1))
        for task, dtype in kinds:
            values = {peer: of(task, dtype, peer) for peer in PEERS}
            cells = ["" if values[peer] is None else f"{values[peer]:.2f}" for peer in PEERS]
            ours = [values[peer] for peer in PEERS if peer.startswith("bylaw") and values[peer] is not None]
            theirs = [values[peer] for peer in PEERS if peer.startswith("trl") and values[peer] is not None]
            ratio = f"{best(theirs) / best(ours):.2f}" if ours and theirs else ""
            print(f"| {task} | {dtype} | " + " | ".join(cells) + f" | {ratio} |")
        print()

    def median(task, dtype, peer):
        values = seconds.get((task, dtype, peer))
        return statistics.median(values) if values else None

    def peak(task, dtype, peer):
        values = bytes_.get((task, dtype, peer))
        return max(values) / 2**30 if values else None

    table("Seconds of a step", median, min)
    table("Peak resident set, GiB", peak, min)


if __name__ == "__main__":
    main()
