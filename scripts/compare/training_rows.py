"""Batches in tokens for scripts/compare-training.sh: random ids, the same for every trainer.

    training_rows.py OUT_DIR [--rows 4] [--tokens 512] [--steps 6] [--vocab 49152]

    OUT_DIR/sft.jsonl     {"tokens": [...], "completion": N}: half a row is the prompt, half is learnt
    OUT_DIR/pairs.jsonl   {"prompt": [...], "chosen": [...], "rejected": [...]}: answers of a quarter to a half, so
                          that a row of `prompt + answer` has TOKENS tokens at most
    OUT_DIR/prompts.jsonl {"prompt": [...]}: half a row, for methods that draw the other half

A file has rows for STEPS steps of ROWS rows.
"""

import argparse
import json
import random
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--vocab", type=int, default=49152)
    arguments = parser.parse_args()
    generator = random.Random(0)
    half = arguments.tokens // 2

    def ids(count):
        return [generator.randrange(2, arguments.vocab) for _ in range(count)]

    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "sft.jsonl").open("w") as sft, (arguments.out / "pairs.jsonl").open("w") as pairs:
        for _ in range(arguments.rows * arguments.steps):
            sft.write(json.dumps({"tokens": ids(2 * half), "completion": half}) + "\n")
            pair = {"prompt": ids(half), "chosen": ids(half), "rejected": ids(half)}
            pairs.write(json.dumps(pair) + "\n")
    with (arguments.out / "prompts.jsonl").open("w") as prompts:
        for _ in range(arguments.rows * arguments.steps):
            prompts.write(json.dumps({"prompt": ids(half)}) + "\n")


if __name__ == "__main__":
    main()
