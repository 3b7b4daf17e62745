"""Trains two steps with TRL on exports of bylaw, as they come.

    train_exports.py DIR...

Each DIR was written by `bylaw data convert --to trl`. Every YAML file in it is parsed by TRL's own
command line and run by TRL's own script (`trl sft`, `trl dpo`, `trl reward`, `trl kto`, `trl grpo`), in
the directory, with nothing renamed; only the model (a random Llama of two layers, made here), the device
(CPU) and the number of steps are overridden. Prints the losses; exits 1 if one of them is not finite, or
if a trainer did not see as many rows as bylaw recorded.
"""

import importlib
import json
import math
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))

import datasets  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification  # noqa: E402

import byte_level_bpe  # noqa: E402
import tiny_llama  # noqa: E402

CONTEXT = 4096
VOCAB_SIZE = 512
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
STEPS = 2


def make_models(directory):
    """A random policy and a random reward model that share a tokenizer with a chat template."""
    torch.manual_seed(0)
    tokenizer = byte_level_bpe.train(tiny_llama.SENTENCES, VOCAB_SIZE, CONTEXT)
    tokenizer.chat_template = TEMPLATE
    tokenizer.pad_token = tokenizer.eos_token
    shape = dict(
        vocab_size=max(tokenizer.get_vocab().values()) + 1,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    made = {
        "policy": LlamaForCausalLM(LlamaConfig(**shape)),
        "reward": LlamaForSequenceClassification(LlamaConfig(num_labels=1, **shape)),
    }
    for name, model in made.items():
        model.save_pretrained(directory / name)
        tokenizer.save_pretrained(directory / name)
    return directory / "policy", directory / "reward"


class Log:
    """What trainers log, and the rows that they were given."""

    def __init__(self):
        self.lines, self.rows = [], None
        log, init = transformers.Trainer.log, transformers.Trainer.__init__

        def logged(trainer, logs, *rest, **named):
            self.lines.append(dict(logs))
            return log(trainer, logs, *rest, **named)

        def begun(trainer, *rest, **named):
            init(trainer, *rest, **named)
            self.rows = len(trainer.train_dataset)

        transformers.Trainer.log, transformers.Trainer.__init__ = logged, begun

    def take(self):
        losses = [line["loss"] for line in self.lines if "loss" in line]
        self.lines.clear()
        return losses


def run(name, models, log):
    """Runs one configuration of the working directory."""
    policy, reward = models
    module = importlib.import_module(f"trl.scripts.{name}")
    with tempfile.TemporaryDirectory() as out:
        words = ["--config", f"{name}.yaml", "--model_name_or_path", str(policy), "--output_dir", out]
        words += ["--max_steps", str(STEPS), "--use_cpu", "true", "--bf16", "false", "--save_strategy", "no"]
        if name == "grpo":
            words += ["--reward_model_name_or_path", str(reward), "--max_completion_length", "8"]
        # Keys that TRL does not know are an error here.
        module.main(*module.make_parser().parse_args_and_config(words))
    return log.take()


def check(directory, models, log):
    record = json.loads((directory / "export.json").read_text())
    os.chdir(directory)
    configurations = sorted(path.stem for path in directory.glob("*.yaml"))
    if not configurations:
        sys.exit(f"{directory}: there is no configuration")
    for name in configurations:
        losses = run(name, models, log)
        if len(losses) != STEPS or not all(map(math.isfinite, losses)):
            sys.exit(f"{directory}: trl {name} logged the losses {losses}, expected {STEPS} numbers")
        print(f"{directory.name}: trl {name}: {log.rows} of {record['rows']} rows, losses "
              + ", ".join(f"{loss:.4f}" for loss in losses), flush=True)
        # Packing and filtering by length may change the number of rows; losing them all may not.
        if not log.rows:
            sys.exit(f"{directory}: trl {name} was left with no rows")


def main():
    directories = [Path(name).resolve() for name in sys.argv[1:]]
    if not directories:
        sys.exit(__doc__)
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    log = Log()
    with tempfile.TemporaryDirectory() as work:
        models = make_models(Path(work))
        for directory in directories:
            check(directory, models, log)
    print(f"trl {trl.__version__}, transformers {transformers.__version__}, torch {torch.__version__}, "
          f"datasets {datasets.__version__}")


if __name__ == "__main__":
    main()
