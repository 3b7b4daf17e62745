"""Makes tests/golden/online.json: advantages and losses of the methods that draw while they learn, in float64, by torch.

Cases and shapes are as in losses.py, whose PPO batch is used here too.

    advantages     of completions in groups: leave_one_out R - mean of the group's others (Ahmadian et al. 2024);
                   group (R - mean) / (std + 1e-4) with the group's unbiased std (Shao et al. 2024), batch the same
                   with the std of all rewards, none R - mean (Liu et al. 2025)
    grpo           policy_loss of tokens as in ppo with A one number a completion, k3 to the reference per token:
                   loss = policy_loss + kl_coef kl, each gathered over tokens: `token` mean over all of the batch,
                   `sequence` mean of the completions' means, `constant` sum / (completions * room)
    rloo           ratio = exp(sum of logprobs - sum of old_logprobs); loss = mean max(-A ratio, -A clip(ratio))
    scale          x of all counted tokens: (x - mean) / sqrt(var + 1e-8) + mean, var unbiased
    kl_controller  coef *= 1 + clip((kl - target) / target, -0.2, 0.2) completions / horizon (Ziegler et al. 2019, 2.2)

Read against trl 1.16.0: grpo_trainer.py with `scale_rewards` and the `loss_type`s `bnpo` (token), `grpo` (sequence)
and `dr_grpo` (constant), rloo_trainer.py.
"""

import torch

from golden_json import write_json
from losses import GOLDEN, PPO, PPO_MASK, clipped_surrogate, constant, gradients, leaf, masked_mean


def advantages(name, rewards, groups):
    rewards_ = constant(rewards)
    by_rule = {rule: torch.zeros(len(rewards)).double() for rule in ("leave_one_out", "group", "batch", "none")}
    for group in set(groups):
        rows = [row for row, own in enumerate(groups) if own == group]
        own = rewards_[rows]
        if len(rows) < 2 or (own == own[0]).all():
            continue
        for index, row in enumerate(rows):
            others = torch.cat((own[:index], own[index + 1 :]))
            by_rule["leave_one_out"][row] = own[index] - others.mean()
            by_rule["group"][row] = (own[index] - own.mean()) / (own.std() + 1e-4)
            by_rule["batch"][row] = (own[index] - own.mean()) / (rewards_.std() + 1e-4)
            by_rule["none"][row] = own[index] - own.mean()
    return {"name": name, "inputs": {"rewards": rewards, "groups": groups}, "expected": by_rule}


def advantages_cases():
    return [
        advantages("groups", [1.0, -0.5, 0.25, 2.0, 3.0, -1.0, -1.0, 0.0], [0, 0, 0, 0, 1, 1, 1, 1]),
        # Completions without a token have left groups of 3, 1 and 2.
        advantages("ragged", [0.5, 1.5, -2.0, 4.0, 0.125, -0.125], [2, 2, 2, 5, 9, 9]),
        advantages("nothing_to_tell", [0.1, 0.1, 0.1, -4.0, -4.0], [0, 0, 0, 1, 1]),
        advantages("nearly_equal", [1.0, 1.0 + 2.0**-20, 100.0, -100.0], [0, 0, 1, 1]),
    ]


REFERENCE = [
    [-1.3, -0.4, -2.0, -1.1, -2.2],
    [-0.45, -2.5, -0.05, 7.0, 7.0],
    [-1.9, -0.6, -1.6, -3.9, 7.0],
    [-2.4, 7.0, 7.0, 7.0, 7.0],
    [-4.5, -0.3, -1.7, -2.6, -0.35],
]

COMPLETION_ADVANTAGES = [0.9, -1.2, 0.35, -0.6, 1.5]


def grpo(name, aggregation, kl_coef, clip_range=0.2, dual_clip=None, room=8):
    logprobs = leaf(PPO["logprobs"])
    old_logprobs, reference, mask = constant(PPO["old_logprobs"]), constant(REFERENCE), constant(PPO_MASK)
    of_tokens = constant(COMPLETION_ADVANTAGES)[:, None].expand(-1, 5)
    difference = logprobs - old_logprobs
    losses, held = clipped_surrogate(of_tokens, difference.exp(), clip_range, dual_clip)
    log_ratio = torch.where(mask > 0, reference - logprobs, 0.0)
    kl = log_ratio.exp() - log_ratio - 1

    def gather(values):
        values = torch.where(mask > 0, values, 0.0)
        if aggregation == "token":
            return values.sum() / mask.sum()
        if aggregation == "sequence":
            return (values.sum(1) / mask.sum(1)).mean()
        return values.sum() / (values.size(0) * room)

    loss = gather(losses) + kl_coef * gather(kl)
    return {
        "name": name,
        "aggregation": aggregation,
        "kl_coef": kl_coef,
        "clip_range": clip_range,
        "dual_clip": dual_clip,
        "room": room,
        "inputs": {
            "logprobs": PPO["logprobs"],
            "old_logprobs": PPO["old_logprobs"],
            "reference_logprobs": REFERENCE,
            "advantages": COMPLETION_ADVANTAGES,
            "mask": PPO_MASK,
        },
        "expected": {
            "loss": loss,
            "policy_loss": gather(losses),
            "kl": masked_mean(kl, mask),
            "clipfrac": masked_mean(held.double(), mask),
            "approx_kl": 0.5 * masked_mean(difference**2, mask),
            "gradient": gradients(loss, logprobs=logprobs),
        },
    }


def grpo_cases():
    return [
        grpo("token", "token", 0.04),
        grpo("sequence", "sequence", 0.5),
        grpo("constant", "constant", 0.5, clip_range=0.3),
        grpo("no_penalty", "token", 0.0),
        grpo("dual_clip", "sequence", 0.04, dual_clip=1.25),
    ]


def rloo(name, inputs, advantages_, clip_range):
    logprobs = leaf(inputs["logprobs"])
    old_logprobs, mask = constant(inputs["old_logprobs"]), constant(inputs["mask"])
    difference = (torch.where(mask > 0, logprobs - old_logprobs, 0.0)).sum(1)
    losses, held = clipped_surrogate(constant(advantages_), difference.exp(), clip_range)
    loss = losses.mean()
    return {
        "name": name,
        "clip_range": clip_range,
        "inputs": {**inputs, "advantages": advantages_},
        "expected": {
            "loss": loss,
            "clipfrac": held.double().mean(),
            "approx_kl": 0.5 * (difference**2).mean(),
            "gradient": gradients(loss, logprobs=logprobs),
        },
    }


def rloo_cases():
    moved = {key: PPO[key] for key in ("logprobs", "old_logprobs", "mask")}
    # Where nothing has moved the gradient is that of REINFORCE, -A / B for every token that counts.
    still = {**moved, "old_logprobs": moved["logprobs"]}
    case = rloo("still", still, COMPLETION_ADVANTAGES, 0.2)
    expected = -constant(COMPLETION_ADVANTAGES)[:, None] / 5 * constant(PPO_MASK)
    assert torch.allclose(case["expected"]["gradient"]["logprobs"], expected, atol=1e-15)
    return [case, rloo("moved", moved, COMPLETION_ADVANTAGES, 0.2), rloo("wide", moved, COMPLETION_ADVANTAGES, 2.0)]


def scale(name, values, mask):
    counted = constant(values)[constant(mask) > 0]
    mean = counted.mean()
    scaled = (constant(values) - mean) / torch.sqrt(counted.var(unbiased=True) + 1e-8) + mean
    return {
        "name": name,
        "inputs": {"values": values, "mask": mask},
        "expected": {"scaled": torch.where(constant(mask) > 0, scaled, 0.0)},
    }


def scale_cases():
    ragged = [[0.5, -1.25, 2.0, 0.0], [3.5, 77.0, 77.0, 77.0], [-0.75, 0.125, 77.0, 77.0]]
    return [
        scale("ragged", ragged, [[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]),
        scale("constant", [[0.5, 0.5], [0.5, 77.0]], [[1, 1], [1, 0]]),
    ]


def kl_controller(name, target, horizon, completions, kls, coef=0.2):
    steps = [coef]
    for kl in kls:
        # The paper's K is completions / horizon (0.1 there).
        error = min(max((kl - target) / target, -0.2), 0.2)
        steps.append(steps[-1] * (1 + completions / horizon * error))
    return {
        "name": name,
        "target": target,
        "horizon": horizon,
        "completions": completions,
        "inputs": {"kl": kls, "coefficient": coef},
        "expected": {"coefficients": steps[1:]},
    }


def kl_controller_cases():
    return [
        kl_controller("follows", 6.0, 10000.0, 256, [0.0, 1.0, 5.5, 6.0, 6.5, 20.0, -3.0]),
        kl_controller("fast", 0.5, 256.0, 64, [0.1, 0.45, 0.55, 2.0, 100.0]),
    ]


def main():
    torch.set_num_threads(1)
    cases = {
        "advantages": advantages_cases(),
        "grpo": grpo_cases(),
        "rloo": rloo_cases(),
        "scale": scale_cases(),
        "kl_controller": kl_controller_cases(),
    }
    write_json(GOLDEN / "online.json", cases)


if __name__ == "__main__":
    main()
