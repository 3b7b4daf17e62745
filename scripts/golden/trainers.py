"""Makes tests/golden/trl.json: what TRL's own trainers do in five optimiser steps on the checkpoint tests/golden/llama.

Needs requirements-trl.txt. The real trainers run from texts to optimiser, in float32 on one thread: nothing is replaced,
`compute_loss` is only listened to, for the loss in a log is rounded. Each word of a text is the name of a token, so
that both sides are sure to see the same tokens; the script checks that each trainer made of the texts just these.

    versions, settings  what ran, and the settings that all runs share
    rows                in the order of training, `batch_size` to a step: prompt, chosen, rejected as tokens, the answers
                        with their EOS
    runs                by name: trainer, settings of its own, and for each step what it logs:
                        loss, grad_norm (before clipping), learning_rate, and TRL's figures under TRL's names

SFT learns the chosen answers. The reward model's head is zero at the start, as bylaw's is. KTO gets each batch of pairs
as TRL's `unpair_preference_dataset` would make it: the chosen answers, then the rejected ones; it pairs each prompt with
the completion before its own in that batch for its KL term.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import accelerate
import numpy
import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast
from transformers import TrainerCallback, set_seed
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from golden_json import write_json

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
CHECKPOINT = GOLDEN / "llama"

STEPS = 5
BATCH = 2
EOS = 1
SETTINGS = {
    "learning_rate": 1e-3,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "linear",
}


def make_rows(vocab):
    """Prompts and answers of several lengths; 0, 1 and the last token are special. Three rows over and over, two to a
    step: the rewards of a step whose rows were never learnt before are rounding of their log-probabilities."""
    generator = numpy.random.default_rng(7)
    draw = lambda low, high: generator.integers(2, vocab - 1, generator.integers(low, high)).tolist()  # noqa: E731
    rows = []
    for _ in range(3):
        rows.append({"prompt": draw(3, 14), "chosen": draw(1, 18) + [EOS], "rejected": draw(1, 18) + [EOS]})
    return [rows[index % len(rows)] for index in range(STEPS * BATCH)]


def words_tokenizer(vocab):
    names = [f"t{token}" for token in range(vocab)]
    names[0], names[EOS], names[-1] = "<s>", "</s>", "<pad>"
    tokenizer = Tokenizer(WordLevel({name: token for token, name in enumerate(names)}))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("</s>", "<pad>")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")


def text(tokens):
    """TRL adds the EOS itself."""
    return " ".join(f"t{token}" for token in tokens if token != EOS)


def pairs(rows):
    return [{"prompt": text(r["prompt"]) + " ", "chosen": text(r["chosen"]), "rejected": text(r["rejected"])} for r in rows]


def demonstrations(rows):
    return [{"prompt": text(r["prompt"]) + " ", "completion": text(r["chosen"])} for r in rows]


def unpaired(rows):
    out = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        for side in ("chosen", "rejected"):
            for row in batch:
                answer = {"prompt": text(row["prompt"]) + " ", "completion": text(row[side])}
                out.append({**answer, "label": side == "chosen"})
    return out


class Listener(TrainerCallback):
    """Keeps what is logged at every step."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **_):
        if "grad_norm" in logs:
            self.logs.append(dict(logs))


def listened(trainer_class, losses):
    class Listened(trainer_class):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            losses.append((loss[0] if isinstance(loss, tuple) else loss).item())
            return loss

    Listened.__name__ = trainer_class.__name__
    return Listened


FIGURES = (
    "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected",
    "kl", "nll_loss", "log_odds_ratio", "log_odds_chosen", "accuracy", "margin", "mean_token_accuracy", "entropy",
)  # fmt: skip


def run(trainer_class, config_class, data, settings, check, batch=BATCH, reward=False):
    set_seed(1)
    vocab = transformers.AutoConfig.from_pretrained(CHECKPOINT).vocab_size
    tokenizer = words_tokenizer(vocab)
    if reward:
        model = AutoModelForSequenceClassification.from_pretrained(CHECKPOINT, num_labels=1, dtype=torch.float32)
        torch.nn.init.zeros_(model.score.weight)
    else:
        model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    losses, listener = [], Listener()
    with tempfile.TemporaryDirectory() as out:
        config = config_class(
            output_dir=out,
            **SETTINGS,
            **settings,
            per_device_train_batch_size=batch,
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            max_length=128,
            dataloader_num_workers=0,
            disable_tqdm=True,
        )
        trainer = listened(trainer_class, losses)(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(data),
            processing_class=tokenizer,
            callbacks=[listener],
        )
        check(list(trainer.train_dataset))
        trainer.train()
    assert len(losses) == len(listener.logs) == STEPS, (len(losses), len(listener.logs))
    steps = []
    for loss, logs in zip(losses, listener.logs):
        step = {"loss": loss, "grad_norm": float(logs["grad_norm"]), "learning_rate": logs["learning_rate"]}
        steps.append({**step, **{name: float(logs[name]) for name in FIGURES if name in logs}})
    print(trainer_class.__name__, settings, [step["loss"] for step in steps])
    return {"trainer": trainer_class.__name__, "settings": settings, "steps": steps}


def main():
    torch.set_num_threads(1)
    rows = make_rows(transformers.AutoConfig.from_pretrained(CHECKPOINT).vocab_size)

    def check_sft(found):
        for row, seen in zip(rows, found, strict=True):
            assert seen["input_ids"] == row["prompt"] + row["chosen"]
            assert seen["labels"] == [-100] * len(row["prompt"]) + row["chosen"]

    def check_reward(found):
        for row, seen in zip(rows, found, strict=True):
            assert seen["chosen_ids"] == row["prompt"] + row["chosen"]
            assert seen["rejected_ids"] == row["prompt"] + row["rejected"]

    def check_dpo(found):
        for row, seen in zip(rows, found, strict=True):
            assert [seen[f"{part}_ids"] for part in row] == list(row.values())

    def check_labels(found):
        for row, seen in zip(rows, found, strict=True):
            for side in ("chosen", "rejected"):
                assert seen[f"{side}_input_ids"] == row["prompt"] + row[side]
                assert seen[f"{side}_labels"] == [-100] * len(row["prompt"]) + row[side]

    def check_kto(found):
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            answers = [(row["prompt"], row[side]) for side in ("chosen", "rejected") for row in batch]
            for index, (prompt, answer) in enumerate(answers):
                seen = found[2 * start + index]
                assert (seen["prompt_ids"], seen["completion_ids"]) == (prompt, answer)
                assert seen["KL_completion_ids"] == answers[index - 1][1]
                assert seen["label"] == (index < len(batch))

    def dpo(**settings):
        return run(DPOTrainer, DPOConfig, pairs(rows), settings, check_dpo)

    simpo = dict(loss_type="simpo", cpo_alpha=0.0, beta=2.0, simpo_gamma=1.0)
    runs = {
        "sft": run(SFTTrainer, SFTConfig, demonstrations(rows), {}, check_sft),
        "reward": run(RewardTrainer, RewardConfig, pairs(rows), {}, check_reward, reward=True),
        "dpo": dpo(loss_type=["sigmoid"], beta=0.1),
        # TRL 1.16 takes no notice of `label_smoothing` in its sigmoid loss. Of its robust loss with smoothing s, a third
        # below 0 makes -(4 log sigmoid(d) + log sigmoid(-d)) / 5: conservative DPO with a smoothing of 0.2.
        "cdpo": dpo(loss_type=["robust"], beta=0.1, label_smoothing=-1 / 3),
        "robust": dpo(loss_type=["robust"], beta=0.1, label_smoothing=0.2),
        "hinge": dpo(loss_type=["hinge"], beta=0.03),
        "ipo": dpo(loss_type=["ipo"], beta=0.1),
        "normalised": dpo(loss_type=["sigmoid_norm"], beta=2.0),
        "desensitised": dpo(loss_type=["sigmoid"], beta=0.1, ld_alpha=0.5),
        "simpo": run(CPOTrainer, CPOConfig, pairs(rows), simpo, check_labels),
        "kto": run(KTOTrainer, KTOConfig, unpaired(rows), dict(beta=0.1), check_kto, batch=2 * BATCH),
        "kto_weights": run(
            KTOTrainer,
            KTOConfig,
            unpaired(rows),
            dict(beta=0.2, desirable_weight=1.5, undesirable_weight=0.75),
            check_kto,
            batch=2 * BATCH,
        ),
        "orpo": run(ORPOTrainer, ORPOConfig, pairs(rows), dict(beta=0.1), check_labels),
    }
    versions = {module.__name__: module.__version__ for module in (trl, transformers, torch, accelerate)}
    settings = {**SETTINGS, "batch_size": BATCH, "steps": STEPS}
    write_json(GOLDEN / "trl.json", {"versions": versions, "settings": settings, "rows": rows, "runs": runs})


if __name__ == "__main__":
    main()
