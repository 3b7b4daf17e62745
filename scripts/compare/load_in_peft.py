"""Loads adapters written by bylaw with PEFT, on the base they name, and compares the logits.

    load_in_peft.py DIR

DIR is an adapter directory with an `expected.json` beside the adapters: input_ids, positions and logits, as
scripts/golden/models.py has them, here as bylaw computed them. Each sequence is run alone, in float32, with eager
attention. Prints the largest absolute difference, and what merging does to it; exits 1 above 1e-4, when PEFT leaves a
tensor out, or when the adapters do nothing.
"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
import transformers  # noqa: E402
from peft import PeftModel  # noqa: E402
from safetensors import safe_open  # noqa: E402

TOLERANCE = 1e-4


def logits_of(model, expected):
    rows = []
    for ids, positions in zip(expected["input_ids"], expected["positions"], strict=True):
        with torch.no_grad():
            rows.append(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, positions])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    expected = json.loads((directory / "expected.json").read_text())
    config = json.loads((directory / "adapter_config.json").read_text())
    base = transformers.AutoModelForCausalLM.from_pretrained(
        config["base_model_name_or_path"], dtype=torch.float32, attn_implementation="eager"
    ).eval()
    plain = logits_of(base, expected)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, directory).eval()
    complaints = [str(warning.message) for warning in told if "adapter" in str(warning.message)]
    with safe_open(directory / "adapter_model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}
    held = {name.replace(".default.", "."): p for name, p in model.named_parameters() if "lora_" in name}
    if complaints or set(stored) != set(held) or any(not torch.equal(stored[name], held[name]) for name in stored):
        print(f"PEFT holds other tensors: {sorted(set(stored) ^ set(held))} {complaints}")
        return 1
    listed = [torch.tensor(rows, dtype=torch.float32) for rows in expected["logits"]]
    gap = lambda ours, theirs: max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))  # noqa: E731
    adapted, merged = logits_of(model, expected), logits_of(model.merge_and_unload(), expected)
    print(f"{len(stored)} tensors; without the adapters the logits are {gap(plain, adapted):.3g} away")
    print(f"max abs difference {gap(adapted, listed):.3g}, merged {gap(merged, listed):.3g} (at most {TOLERANCE:g})")
    good = gap(plain, adapted) > 1e-2 and gap(adapted, listed) <= TOLERANCE and gap(merged, listed) <= TOLERANCE
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
