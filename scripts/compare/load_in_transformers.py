"""Loads a checkpoint directory written by bylaw with transformers and compares its logits.

    load_in_transformers.py DIR EXPECTED.json

EXPECTED.json has the form that scripts/golden/models.py writes: input_ids, positions, logits. Each
sequence is run alone, in float32, with eager attention. Prints the largest absolute difference;
exits 1 when it is above 1e-4 or when the checkpoint does not hold exactly the model's tensors.
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
    parser.add_argument("expected", type=Path)
    arguments = parser.parse_args()
    if not arguments.directory.is_dir():
        parser.error(f"{arguments.directory} is not a directory")

    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    expected = json.loads(arguments.expected.read_text())
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.directory,
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
    )
    wrong = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    if wrong:
        print(f"the tensors do not fit the model: {wrong}")
        return 1

    rows = list(zip(expected["input_ids"], expected["positions"], expected["logits"], strict=True))
    if not rows:
        print(f"{arguments.expected} lists no sequence")
        return 1
    differences = []
    for number, (ids, positions, listed) in enumerate(rows):
        with torch.no_grad():
            logits = model.eval()(input_ids=torch.tensor([ids]), use_cache=False).logits[0, positions]
        listed = torch.tensor(listed, dtype=torch.float32)
        if logits.shape != listed.shape:
            print(f"sequence {number}: logits {tuple(logits.shape)}, expected {tuple(listed.shape)}")
            return 1
        difference = (logits - listed).abs().max().item()
        print(f"sequence {number}: {len(ids)} tokens, max abs difference {difference:.3g}")
        differences.append(difference)
    # Unlike Python's max, torch's keeps a NaN, and no NaN is within the tolerance.
    largest = torch.tensor(differences).max().item()
    print(f"max abs difference {largest:.3g} (at most {TOLERANCE:g})")
    return 0 if largest <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
