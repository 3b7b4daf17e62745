"""Reads the events of training runs with TensorBoard's own loader and compares them with metrics.jsonl.

    pip install -r scripts/compare/requirements-tensorboard.txt
    bylaw train sft ... --tensorboard --out OUT
    python3 scripts/compare/read_events.py OUT...

Every figure of every step must be there under transformers' tag (`train/loss`), at the step counted from 1, as the
nearest number in single precision; nothing else may be. Exits with 1 otherwise.
"""

import json
import pathlib
import sys

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def scalars(directory):
    """{tag: [(step, value)]} as TensorBoard has them; 0 means that no event is left out."""
    accumulator = EventAccumulator(str(directory), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in tags}


def expected(directory):
    found = {}
    for line in (pathlib.Path(directory) / "metrics.jsonl").read_text().splitlines():
        figures = json.loads(line)
        step = figures.pop("step") + 1
        for name, value in figures.items():
            value = float("nan") if value is None else float(np.float32(value))
            found.setdefault(f"train/{name}", []).append((step, value))
    return found


def main(directories):
    wrong = 0
    for directory in directories:
        read, wanted = scalars(directory), expected(directory)
        differences = sorted(set(read) ^ set(wanted))
        for tag in sorted(set(read) & set(wanted)):
            same = len(read[tag]) == len(wanted[tag]) and all(
                here[0] == there[0] and np.array_equal(here[1], there[1], equal_nan=True)
                for here, there in zip(read[tag], wanted[tag])
            )
            if not same:
                differences.append(tag)
        events = sum(map(len, read.values()))
        print(f"{directory}: {len(read)} tags, {events} events: " + ("; ".join(differences) or "as in metrics.jsonl"))
        wrong += bool(differences) or not events
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
