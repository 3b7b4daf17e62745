"""Loads a reward model written by bylaw as transformers' classifier and compares its rewards.

    score_in_transformers.py DIR

DIR holds rewards.json beside the checkpoint: `input_ids` of sequences and their `rewards` by bylaw, as
`BYLAW_KEEP_SAVED=DIR cargo test --test reward_model classifier` leaves them. The classifier has no bias: the
constant `reward_offset` of config.json is added here. Each sequence is run alone, in float32. Exits 1 above 1e-4.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
import transformers  # noqa: E402

TOLERANCE = 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    expected = json.loads((arguments.directory / "rewards.json").read_text())
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        arguments.directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    # The language model's head is of no use to a classifier; nothing else may be left over, and nothing missing.
    left = set(info["unexpected_keys"]) - {"lm_head.weight"}
    if left or info["missing_keys"] or model.config.num_labels != 1:
        print(f"left over {sorted(left)}, missing {sorted(info['missing_keys'])}, {model.config.num_labels} labels")
        return 1
    largest = torch.tensor(0.0)
    for ids, reward in zip(expected["input_ids"], expected["rewards"], strict=True):
        with torch.no_grad():
            found = model.eval()(input_ids=torch.tensor([ids])).logits[0, 0] + model.config.reward_offset
        print(f"{len(ids)} tokens: {found.item():.6f}, bylaw {reward:.6f}")
        # Unlike Python's max, torch's keeps a NaN.
        largest = torch.maximum(largest, (found - reward).abs())
    print(f"max abs difference {largest.item():.3g} (at most {TOLERANCE:g})")
    return 0 if largest.item() <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
