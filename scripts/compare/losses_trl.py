"""Puts the cases `dpo_length` of tests/golden/losses.json through TRL's own DPO loss (requirements-trl.txt): values and
gradients of `ld_alpha` and of `loss_type: sigmoid_norm`, as `DPOTrainer` computes them from log-probabilities.

TRL has hard labels alone, so the cases with soft ones are left out. No model is loaded: one that answers with the
case's log-probabilities stands in its place.
"""

import json
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
from trl import DPOTrainer

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "losses.json"
CONTROLS = {"none": "sigmoid", "normalised": "sigmoid_norm", "desensitised": "sigmoid"}


def trl_loss(case, policy, reference, mask):
    """The loss of `DPOTrainer` for log-probabilities (2B, T), chosen answers first."""
    answers = SimpleNamespace(
        log_probs=policy * mask,
        entropy=torch.zeros_like(mask),
        mean_logits=torch.zeros_like(mask),
        is_top1=mask > 0,
    )
    of_reference = SimpleNamespace(log_probs=reference * mask)
    model = lambda **_: answers  # noqa: E731
    model.training = True
    accelerator = SimpleNamespace(
        device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x, unwrap_model=lambda x: x
    )
    trainer = SimpleNamespace(
        model=model,
        ref_model=lambda **_: of_reference,
        accelerator=accelerator,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        ld_alpha=case["alpha"] if case["control"] == "desensitised" else None,
        f_divergence_type="reverse_kl",
        beta=case["beta"],
        loss_types=[CONTROLS[case["control"]]],
        loss_weights=[1.0],
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    # Of a prompt of one token, whose log-probability nobody asks for.
    completion = torch.cat((torch.zeros(len(mask), 1), mask), dim=1).long()
    inputs = {
        "input_ids": torch.zeros_like(completion),
        "attention_mask": torch.ones_like(completion),
        "completion_mask": completion,
    }
    return DPOTrainer._compute_loss(trainer, model, inputs, return_outputs=False)


def main():
    import trl.trainer.dpo_trainer as module

    module.disable_gradient_checkpointing = lambda *_: nullcontext()
    checked = 0
    for case in json.loads(GOLDEN.read_text())["dpo_length"]:
        inputs, expected = case["inputs"], case["expected"]
        if case["control"] not in CONTROLS or set(inputs["p_chosen"]) != {1.0}:
            continue
        both = lambda kind: torch.tensor(  # noqa: E731
            inputs[f"{kind}_chosen_logprobs"] + inputs[f"{kind}_rejected_logprobs"], dtype=torch.float64
        )
        policy, lengths = both("policy").requires_grad_(), inputs["chosen_lengths"] + inputs["rejected_lengths"]
        mask = (torch.arange(policy.shape[1])[None] < torch.tensor(lengths)[:, None]).double()
        loss = trl_loss(case, policy, both("reference"), mask)
        loss.backward()
        gradient = expected["gradient"]
        ours = gradient["policy_chosen_logprobs"] + gradient["policy_rejected_logprobs"]
        torch.testing.assert_close(loss.item(), expected["loss"], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(policy.grad, torch.tensor(ours, dtype=torch.float64), rtol=1e-12, atol=1e-12)
        print(f"{case['name']:20} {loss.item():.9f} as in TRL")
        checked += 1
    assert checked == len(CONTROLS)


if __name__ == "__main__":
    main()
