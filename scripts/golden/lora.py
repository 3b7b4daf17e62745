"""Makes the adapters of tests/golden/lora*/ with PEFT, each on tests/golden/llama, and what PEFT computes with them.

    lora/     all linear maps of attention and MLP, rank 2, alpha 8; the queries of layer 1 have rank 3 (rank_pattern)
    lora-rs/  queries and down projections of layer 1 alone, rank 4, scaled by the root of the rank (rsLoRA)

A and B are both random, so that every gradient is one. Each directory is what `save_pretrained` writes, but for the
README, with `base_model_name_or_path` from the directory itself, and

    expected.json  input_ids, positions, logits, logprob_sum, loss: as models.py has them, with the adapters in place;
                   the logits too were computed in float64
                   grad  per tensor of the adapter file, d loss / d tensor: norm and entries, in float64

Needs peft besides what requirements.txt names: requirements-lora.txt.
"""

import json
import os
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from golden_json import write_json  # noqa: E402
from models import GOLDEN, entries_of, in_float64, sequences, softmax_in_float64  # noqa: E402

BASE = GOLDEN / "llama"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ADAPTERS = {
    "lora": LoraConfig(
        r=2,
        lora_alpha=8,
        lora_dropout=0.1,
        target_modules=ALL,
        rank_pattern={"layers.1.self_attn.q_proj": 3},
        task_type="CAUSAL_LM",
    ),
    "lora-rs": LoraConfig(
        r=4,
        lora_alpha=4,
        use_rslora=True,
        target_modules=["q_proj", "down_proj"],
        layers_to_transform=[1],
        task_type="CAUSAL_LM",
    ),
}


def base():
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager").eval()


def adapted(directory):
    return PeftModel.from_pretrained(base(), directory).eval()


def logits_of(model, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def make(name, config, seed):
    directory = GOLDEN / name
    shutil.rmtree(directory, ignore_errors=True)
    model = get_peft_model(base(), config)
    generator = numpy.random.default_rng(seed)
    with torch.no_grad():
        for parameter_name, parameter in sorted(model.named_parameters()):
            if "lora_" in parameter_name:
                noise = torch.from_numpy(generator.standard_normal(tuple(parameter.shape)))
                parameter.copy_(0.2 * noise)
    model.save_pretrained(directory)
    (directory / "README.md").unlink()
    path = directory / "adapter_config.json"
    saved = json.loads(path.read_text())
    saved["base_model_name_or_path"] = "../llama"
    saved["target_modules"] = sorted(saved["target_modules"])
    path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
    write_json(directory / "expected.json", expected_of(directory, seed))


def expected_of(directory, seed):
    input_ids = sequences(288, seed)[:2]
    positions = [[0, *range(len(ids) - 4, len(ids))] for ids in input_ids]
    model = adapted(directory)
    with torch.no_grad():
        logits = [logits_of(model, ids)[where] for ids, where in zip(input_ids, positions)]
        without = [logits_of(base(), ids)[where] for ids, where in zip(input_ids, positions)]
    assert all((a - b).abs().max() > 0.1 for a, b in zip(logits, without)), "the adapters do nothing"

    exact = adapted(directory)
    in_float64(exact.base_model.model)
    for parameter_name, parameter in exact.named_parameters():
        parameter.requires_grad_("lora_" in parameter_name)
    logprob_sum, listed = [], []
    for ids, where, rough in zip(input_ids, positions, logits):
        with softmax_in_float64():
            full = logits_of(exact, ids)
        assert full.dtype == torch.float64
        assert torch.allclose(full[where].float(), rough, atol=5e-5), "float32 and float64 disagree"
        listed.append(full[where].float())
        logprobs = full[:-1].log_softmax(-1)
        logprob_sum.append(logprobs.gather(-1, torch.tensor(ids[1:])[:, None]).sum())
    loss = -sum(logprob_sum) / sum(len(ids) - 1 for ids in input_ids)
    loss.backward()
    generator = numpy.random.default_rng(seed)
    grad = {
        parameter_name.replace(".default.", "."): {
            "norm": parameter.grad.norm().item(),
            "entries": entries_of(parameter.grad, generator),
        }
        for parameter_name, parameter in exact.named_parameters()
        if parameter.grad is not None
    }
    return {
        "input_ids": input_ids,
        "positions": positions,
        "logits": listed,
        "logprob_sum": [value.item() for value in logprob_sum],
        "loss": loss.item(),
        "grad": grad,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    for seed, (name, config) in enumerate(ADAPTERS.items(), start=101):
        make(name, config, seed)
        for path in sorted((GOLDEN / name).iterdir()):
            print(f"{path.stat().st_size:8}  {path.relative_to(GOLDEN)}")
