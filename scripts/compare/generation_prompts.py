"""Writes the prompts of scripts/compare-generation.sh, as tokens, one JSON object a line.

    generation_prompts.py TOKENIZER_DIR OUT_DIR [--pairs N] [--rows N]

    a8.jsonl, a32.jsonl  {"tokens": [..], "max_new_tokens": 64}: 32..256 tokens, about 128 in the mean
    judge.jsonl          {"prefix": [..], "options": [[A], [B]]}: 200 pairs in both orders, the two
                         orders of a pair next to each other; 5 few-shots shared by all (600..900
                         tokens), then a question and two answers (100..200 tokens)
    revise.jsonl         {"turns": [[..], ..], "max_new_tokens": 32}: a question, then 4 rounds of
                         critique request and revision request (9 turns). The prompt of a turn is all
                         that came before, the model's own tokens included, and the turn's tokens.
                         The principle is drawn by row and round, so turns differ in length.
    summary.json         counts and mean lengths
"""

import argparse
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from synthetic_text import PRINCIPLES, QUESTION, Writer  # noqa: E402

SHOTS = 5
ROUNDS = 4


class Prompts:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.writer = Writer(3)
        self.generator = numpy.random.default_rng(4)

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False)

    def text(self, low, high):
        """Text of low..high tokens."""
        tokens = self.encode(self.writer.sentences(high))
        return self.tokenizer.decode(tokens[: int(self.generator.integers(low, high + 1))])

    def completion(self, rows):
        # Quantiles of 32 + 224 u^1.35: from 32 to 256, 127 in the mean; in random order.
        lengths = [round(32 + 224 * (row / (rows - 1)) ** 1.35) for row in range(rows)]
        for length in self.generator.permutation(lengths).tolist():
            tokens = [self.tokenizer.bos_token_id] + self.encode(self.writer.sentences(length))
            assert len(tokens) >= length
            yield {"tokens": tokens[:length], "max_new_tokens": 64}

    def comparison(self, question, first, second):
        return (
            f"Consider the following conversation:\n\nHuman: {question}\n\n{QUESTION}\n\n"
            f"Options:\n(A) {first}\n(B) {second}\n\nThe answer is: ("
        )

    def contest(self):
        return self.text(16, 32), self.text(24, 48), self.text(24, 48)

    def judge(self, pairs):
        shots = "".join(f"{self.comparison(*self.contest())}{'AB'[shot % 2]})\n\n" for shot in range(SHOTS))
        prefix = [self.tokenizer.bos_token_id] + self.encode(shots)
        options = [self.encode("A"), self.encode("B")]
        assert all(len(option) == 1 for option in options)
        self.shared = len(prefix)
        for _ in range(pairs):
            question, first, second = self.contest()
            for answers in [(first, second), (second, first)]:
                yield {"prefix": prefix + self.encode(self.comparison(question, *answers)), "options": options}

    def revise(self, rows):
        for _ in range(rows):
            first = f"Human: {self.text(24, 96)}\n\nAssistant:"
            turns = [[self.tokenizer.bos_token_id] + self.encode(first)]
            for _ in range(ROUNDS):
                critique, revision = PRINCIPLES[self.generator.integers(len(PRINCIPLES))]
                turns.append(self.encode(f"\n\nCritique Request: {critique}\n\nCritique:"))
                turns.append(self.encode(f"\n\nRevision Request: {revision}\n\nRevision:"))
            yield {"turns": turns, "max_new_tokens": 32}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", type=Path, metavar="TOKENIZER_DIR")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--rows", type=int, default=64, help="of the revision task")
    arguments = parser.parse_args()

    prompts = Prompts(AutoTokenizer.from_pretrained(arguments.tokenizer))
    tasks = {
        "a8": list(prompts.completion(8)),
        "a32": list(prompts.completion(32)),
        "judge": list(prompts.judge(arguments.pairs)),
        "revise": list(prompts.revise(arguments.rows)),
    }
    summary = {}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for task, rows in tasks.items():
        with open(arguments.out / f"{task}.jsonl", "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        lengths = [len(row.get("tokens") or row.get("prefix") or sum(row["turns"], [])) for row in rows]
        summary[task] = {
            "rows": len(rows), "min": min(lengths), "max": max(lengths), "mean": round(float(numpy.mean(lengths)))
        }
    summary["judge"]["shared_prefix"] = prompts.shared
    (arguments.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
