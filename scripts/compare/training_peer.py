"""Times TRL on the batches of training_rows.py, for scripts/compare-training.sh. Prints one line of JSON.

    training_peer.py --model DIR --task sft|reward|dpo|lora|online --rows FILE [--dtype f32|bf16] [--batch 4]
                     [--threads 2] [--lean] [--new-tokens 64] [--generations 4]

Seconds of each optimiser step but the first, from its first micro-batch to its end, as the trainer's own callbacks
see them; and the peak resident set of the process. f32 as TRL does it; bf16 is its autocast (`bf16=True`), weights and
moments in f32 as ours are. `--lean` sets what saves memory: gradient checkpointing, for DPO reference
log-probabilities computed beforehand, and no reference model left in memory.

`online` is an iteration of GRPOTrainer, drawing included: a batch of prompts, each with as many answers as
`--generations` says, all of `--new-tokens` tokens; a rule gives the reward, a reference takes part in the loss, one update.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import datasets  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402


class Clock(transformers.TrainerCallback):
    """When each step began and ended."""

    def __init__(self):
        self.seconds = []
        self.started = 0.0

    def on_step_begin(self, *_, **__):
        self.started = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.seconds.append(time.perf_counter() - self.started)


def rows_of(task, rows):
    if task == "online":
        return datasets.Dataset.from_dict({"prompt": [" ".join(map(str, row["prompt"])) for row in rows]})
    if task in ("sft", "lora"):
        columns = {
            "input_ids": [row["tokens"] for row in rows],
            "labels": [[-100] * row["completion"] + row["tokens"][row["completion"]:] for row in rows],
        }
    elif task == "reward":
        columns = {
            "chosen_ids": [row["prompt"] + row["chosen"] for row in rows],
            "rejected_ids": [row["prompt"] + row["rejected"] for row in rows],
        }
    else:
        columns = {
            "prompt_ids": [row["prompt"] for row in rows],
            "chosen_ids": [row["chosen"] for row in rows],
            "rejected_ids": [row["rejected"] for row in rows],
        }
    return datasets.Dataset.from_dict(columns)


def settings(arguments, directory, task):
    common = dict(
        output_dir=directory,
        per_device_train_batch_size=arguments.batch,
        num_train_epochs=1,
        learning_rate=1e-5,
        use_cpu=True,
        bf16=arguments.dtype == "bf16",
        gradient_checkpointing=arguments.lean,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        dataloader_num_workers=0,
        max_length=None,
    )
    if task in ("sft", "lora"):
        return trl.SFTConfig(**common, dataset_kwargs={"skip_prepare_dataset": True})
    if task == "reward":
        return trl.RewardConfig(**common)
    if task == "online":
        del common["max_length"]
        common["per_device_train_batch_size"] *= arguments.generations
        return trl.GRPOConfig(
            **common,
            num_generations=arguments.generations,
            max_completion_length=arguments.new_tokens,
            # No answer ends by itself, on either side.
            generation_kwargs={"min_new_tokens": arguments.new_tokens},
            beta=0.04,
        )
    return trl.DPOConfig(**common, precompute_ref_log_probs=arguments.lean)


class PreparedDPO(trl.DPOTrainer):
    """Takes tokens as they come."""

    def _prepare_dataset(self, dataset, *_, **__):
        return dataset


class TokenGRPO(trl.GRPOTrainer):
    """Takes prompts as tokens."""

    def _tokenize_prompts(self, prompts):
        return [[int(token) for token in prompt.split()] for prompt in prompts], None, {}


def variety(completion_ids, **_):
    """A rule: the share of an answer's tokens that are new."""
    return [len(set(ids)) / len(ids) for ids in completion_ids]


def trainer_of(arguments, directory, tokenizer, dataset):
    task, common = arguments.task, {}
    kind = transformers.AutoModelForCausalLM
    if task == "reward":
        kind, common = transformers.AutoModelForSequenceClassification, {"num_labels": 1}
    model = kind.from_pretrained(arguments.model, dtype=torch.float32, **common)
    model.config.pad_token_id = tokenizer.pad_token_id
    trainers = {"sft": trl.SFTTrainer, "lora": trl.SFTTrainer, "reward": trl.RewardTrainer}
    trainer = {**trainers, "dpo": PreparedDPO, "online": TokenGRPO}[task]
    extra = {}
    if task == "online":
        extra["reward_funcs"] = variety
    if task == "lora":
        import peft

        extra["peft_config"] = peft.LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        )
    return trainer(
        model=model,
        args=settings(arguments, directory, task),
        train_dataset=dataset,
        processing_class=tokenizer,
        **extra,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True, choices=["sft", "reward", "dpo", "lora", "online"])
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lean", action="store_true")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--generations", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    tokenizer.pad_token = tokenizer.eos_token
    rows = [json.loads(line) for line in arguments.rows.read_text().splitlines()]
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        trainer = trainer_of(arguments, directory, tokenizer, rows_of(arguments.task, rows))
        trainer.add_callback(clock)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    figures = {
        "seconds": clock.seconds[1:],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "losses": losses,
        "versions": {"torch": torch.__version__, "trl": trl.__version__, "transformers": transformers.__version__},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
