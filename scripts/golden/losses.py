"""Makes tests/golden/losses.json: values and gradients of the losses, in float64, by torch.

The file is one object; each key holds a list of cases, and each case has `name`, its settings (by
the name of the hyperparameter; null is "off"), `inputs` and `expected`. `expected.gradient` is
d (the case's loss) / d (the input of that name); an input that is not listed there is a constant.
Shapes: (B,) per pair, (B, T) per token. A mask is 1 where a token counts. Every counted-out
position holds a number (often a large one) that must not matter; outputs and gradients are 0 there.

    dpo            delta = (policy_chosen - policy_rejected) - (reference_chosen - reference_rejected)
                   row = -(p log sigmoid(beta delta) + (1-p) log sigmoid(-beta delta)); loss = mean
                   (Rafailov et al. 2023, and its conservative form with p = 1 - label_smoothing)
    robust         ((1-s) L(p) - s L(1-p)) / (1-2s) with the rows L of dpo and the label_smoothing s (Chowdhury et al. 2024)
    hinge          p max(0, 1 - beta delta) + (1-p) max(0, 1 + beta delta)
    ipo            p (delta - 1/(2 beta))^2 + (1-p) (delta + 1/(2 beta))^2 (Azar et al. 2023); rewards are beta * log-ratio
    simpo          -(p log sigmoid(d - gamma) + (1-p) log sigmoid(-d - gamma)), d = beta (chosen - rejected) (Meng et al.
                   2024)
    kto            per answer, wanted with probability q (p for the chosen, 1-p for the rejected), r its log-ratio:
                   q desirable (1 - sigmoid(beta (r - z))) + (1-q) undesirable (1 - sigmoid(beta (z - r))); a row is the
                   mean of both (Ethayarajh et al. 2024). z = max(0, mean(policy - reference)) of other answers
    orpo           logprobs (B, T), lengths; logps their means; o = log odds(chosen) - log odds(rejected);
                   row = -beta (p log sigmoid(o) + (1-p) log sigmoid(-o)); nll = -sum q w logprobs / sum q w over the tokens
                   of both answers, w = 1, or prompt_weight for the first `prompts` of them; loss = nll + mean(row)
                   (Hong et al. 2024). The prompts' tokens are in the nll alone
    bradley_terry  d = chosen - rejected - margin; row as above with d for beta delta;
                   loss = mean(row) + centre_coef * mean((chosen + rejected)^2)
    dpo_length     logps = sum over t of w_t logprobs_t, for policy and reference; dpo as above with a margin added to
                   beta delta. For an answer of n tokens in a pair whose shorter answer has m:
                   normalised w = 1/n (Lambert et al. 2024); margin w = 1, margin = alpha (n_chosen - n_rejected)
                   (Park et al. 2024); desensitised w = 1 before token m, alpha from there on (Liu et al. 2024);
                   down-sampled w = 1 at the m tokens drawn, given in `inputs` (Lu et al. 2024)
    reward_length  bradley_terry, of d + what lengths explain: residual slope * tanh(tokens / scale) with `tokens` the
                   chosen answer's less the rejected one's (Shen et al. 2023 as a product of experts);
                   decorrelated length_chosen - length_rejected, the rewards of a second head, and
                   loss += length_coef (|corr(quality, tokens)| - corr(length, tokens))
                   + orthogonal_coef |cos(quality_weight, length_weight)| (Chen et al. 2024); chosen answers first
    length_slope   the s that minimises sum |reward - s tokens| over pairs, by trying every ratio
    gae            delta_t = r_t + gamma V_{t+1} - V_t; A_t = delta_t + gamma lambda A_{t+1};
                   returns = A + V; V and A are 0 beyond the last counted token
    whiten         (x - mean) / sqrt(var + 1e-8) over counted tokens, var unbiased (divides by n-1)
    ppo            ratio = exp(logprobs - old_logprobs); all means are over counted tokens
                   policy_loss = mean max(-A ratio, -A clip(ratio, 1-c, 1+c))
                   value_loss = 0.5 mean max((V-R)^2, (clip(V, Vold-cv, Vold+cv)-R)^2)
                   loss = policy_loss + vf_coef value_loss
                   clipfrac = mean(second term > first, strictly), value_clipfrac likewise
                   approx_kl = 0.5 mean((logprobs - old_logprobs)^2)
                   dual_clip c: where A < 0 the policy's term is at most -A c (Ye et al. 2020)
                   ratio = mean of the ratios
    sft            loss = -sum(weights logprobs) / sum(weights)
    kl_penalty     l = reference_logprobs - logprobs; k1 = -l; k2 = l^2 / 2; k3 = exp(l) - 1 - l, per token
    adamw          torch.optim.AdamW after clip_grad_norm_ over both parameters, step by step:
                   factor = min(1, max_grad_norm / (norm + 1e-6))

The formulas of dpo, bradley_terry, gae, whiten, ppo and kl_penalty were read against trl 0.24.0
(dpo_trainer.py, reward_trainer.py, ppo_trainer.py, core.py). Two things differ there: approx_kl is averaged over padding as well, and TRL lets `values` count one position past the last token. dpo_length was read
against trl 1.16.0 (`ld_alpha`, `loss_type: sigmoid_norm`), which weighs policy and reference alike.
"""

from pathlib import Path

import torch
from torch.nn.functional import logsigmoid

from golden_json import write_json

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"


def leaf(rows):
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def constant(rows):
    return torch.tensor(rows, dtype=torch.float64)


def gradients(loss, **leaves):
    loss.backward()
    return {name: value.grad for name, value in leaves.items()}


def masked_mean(values, mask):
    return values[mask > 0].mean()


def preference_rows(margin, p_chosen):
    """-log likelihood of the soft label `p_chosen`; exact for any margin."""
    return -(p_chosen * logsigmoid(margin) + (1 - p_chosen) * logsigmoid(-margin))


# dpo ---------------------------------------------------------------------------------------------

DPO_ORDINARY = {
    "policy_chosen_logps": [-12.5, -30.25, -7.0, -55.125, -18.0, -3.5, -41.75],
    "policy_rejected_logps": [-14.0, -28.5, -19.0, -54.0, -18.0, -9.25, -40.5],
    "reference_chosen_logps": [-13.0, -29.0, -11.5, -60.0, -17.5, -3.25, -44.0],
    "reference_rejected_logps": [-13.5, -29.75, -12.25, -49.5, -17.5, -10.0, -38.0],
}

# beta 1: delta is 100, -100, 1000, -1000, 0.
DPO_EXTREME = {
    "policy_chosen_logps": [-50.0, -200.0, -300.0, -1800.0, -25.0],
    "policy_rejected_logps": [-180.0, -90.0, -1500.0, -700.0, -26.5],
    "reference_chosen_logps": [-60.0, -150.0, -400.0, -1000.0, -24.0],
    "reference_rejected_logps": [-90.0, -140.0, -600.0, -900.0, -25.5],
}


def dpo(name, inputs, beta, p_chosen, label_smoothing=0.0):
    chosen, rejected = leaf(inputs["policy_chosen_logps"]), leaf(inputs["policy_rejected_logps"])
    reference_chosen = constant(inputs["reference_chosen_logps"])
    reference_rejected = constant(inputs["reference_rejected_logps"])
    delta = (chosen - rejected) - (reference_chosen - reference_rejected)
    rows = preference_rows(beta * delta, constant(p_chosen))
    if len(set(p_chosen)) == 1:
        # TRL's own line, for a label that is one number for all rows.
        trl_rows = -logsigmoid(beta * delta) * p_chosen[0] - logsigmoid(-beta * delta) * (1 - p_chosen[0])
        assert torch.equal(rows, trl_rows)
    loss = rows.mean()
    return {
        "name": name,
        "beta": beta,
        "label_smoothing": label_smoothing,
        "inputs": {**inputs, "p_chosen": p_chosen},
        "expected": {
            "loss": loss,
            "per_row": rows,
            "chosen_rewards": beta * (chosen - reference_chosen),
            "rejected_rewards": beta * (rejected - reference_rejected),
            "gradient": gradients(loss, policy_chosen_logps=chosen, policy_rejected_logps=rejected),
        },
    }


def dpo_cases():
    soft = [0.5, 0.9, 0.125, 1.0, 0.0, 0.7310585786300049, 0.35]
    return [
        dpo("hard", DPO_ORDINARY, 0.1, [1.0] * 7),
        dpo("soft", DPO_ORDINARY, 0.5, soft),
        # p_chosen is already 1 - label_smoothing: apply one of the two, not both.
        dpo("label_smoothing", DPO_ORDINARY, 0.1, [0.9] * 7, label_smoothing=0.1),
        dpo("extreme_hard", DPO_EXTREME, 1.0, [1.0] * 5),
        dpo("extreme_soft", DPO_EXTREME, 1.0, [0.75, 0.25, 0.9, 0.5, 0.0]),
    ]


# robust, hinge, ipo, simpo, kto -------------------------------------------------------------------

SOFT = [0.5, 0.9, 0.125, 1.0, 0.0, 0.7310585786300049, 0.35]


def log_ratios(inputs):
    leaves = {name: leaf(inputs[f"policy_{name}_logps"]) for name in ("chosen", "rejected")}
    ratios = {name: value - constant(inputs[f"reference_{name}_logps"]) for name, value in leaves.items()}
    return leaves, ratios["chosen"], ratios["rejected"]


def pair_case(name, settings, inputs, leaves, rows, rewards):
    loss = rows.mean()
    return {
        "name": name,
        **settings,
        "inputs": inputs,
        "expected": {
            "loss": loss,
            "per_row": rows,
            "chosen_rewards": rewards[0],
            "rejected_rewards": rewards[1],
            "gradient": gradients(loss, **{f"policy_{name}_logps": value for name, value in leaves.items()}),
        },
    }


def with_reference(kind, name, inputs, p_chosen, **settings):
    """A case of robust, hinge, ipo or kto; settings are beta and what the loss has besides."""
    leaves, chosen, rejected = log_ratios(inputs)
    p, beta, delta = constant(p_chosen), settings["beta"], chosen - rejected
    if kind == "robust":
        s = settings["label_smoothing"]
        rows = (1 - s) * preference_rows(beta * delta, p) - s * preference_rows(beta * delta, 1 - p)
        rows = rows / (1 - 2 * s)
    elif kind == "hinge":
        # No row is at a kink, so every gradient is a derivative.
        assert ((beta * delta).abs() - 1).abs().min() > 1e-6
        rows = p * (1 - beta * delta).clamp(min=0) + (1 - p) * (1 + beta * delta).clamp(min=0)
    elif kind == "ipo":
        target = 1 / (2 * beta)
        rows = p * (delta - target) ** 2 + (1 - p) * (delta + target) ** 2
    elif kind == "kto":
        policy, reference = constant(inputs["other_policy_logps"]), constant(inputs["other_reference_logps"])
        point = (policy - reference).mean().clamp(min=0)
        settings["reference_point"] = point
        answer = lambda q, r: (  # noqa: E731
            q * settings["desirable_weight"] * (1 - torch.sigmoid(beta * (r - point)))
            + (1 - q) * settings["undesirable_weight"] * (1 - torch.sigmoid(beta * (point - r)))
        )
        rows = (answer(p, chosen) + answer(1 - p, rejected)) / 2
    rewards = (beta * chosen, beta * rejected)
    return pair_case(name, settings, {**inputs, "p_chosen": p_chosen}, leaves, rows, rewards)


# Log-ratios of answers to other prompts: their mean is 1.4375, and below 0.
OTHERS = {
    "other_policy_logps": [-20.0, -31.5, -8.25, -50.0],
    "other_reference_logps": [-22.5, -30.0, -9.0, -54.0],
}
OTHERS_BELOW = {"other_policy_logps": [-20.0, -31.5], "other_reference_logps": [-19.0, -31.75]}


def simpo(name, chosen_logps, rejected_logps, p_chosen, beta, gamma):
    leaves = {"chosen": leaf(chosen_logps), "rejected": leaf(rejected_logps)}
    d, p = beta * (leaves["chosen"] - leaves["rejected"]), constant(p_chosen)
    rows = -(p * logsigmoid(d - gamma) + (1 - p) * logsigmoid(-d - gamma))
    inputs = {"policy_chosen_logps": chosen_logps, "policy_rejected_logps": rejected_logps, "p_chosen": p_chosen}
    settings = {"beta": beta, "simpo_gamma": gamma}
    return pair_case(name, settings, inputs, leaves, rows, (beta * leaves["chosen"], beta * leaves["rejected"]))


def family_cases():
    hard, mixed = [1.0] * 7, [0.75, 0.25, 0.9, 0.5, 0.0]
    kto = lambda name, inputs, p, **settings: with_reference(  # noqa: E731
        "kto", name, inputs, p, **{"desirable_weight": 1.0, "undesirable_weight": 1.0, **settings}
    )
    means = [-0.5, -1.25, -3.0, -0.125], [-0.75, -1.0, -3.0, -2.5]
    return {
        "robust": [
            with_reference("robust", "hard", DPO_ORDINARY, hard, beta=0.1, label_smoothing=0.2),
            with_reference("robust", "soft", DPO_ORDINARY, SOFT, beta=0.5, label_smoothing=0.125),
            with_reference("robust", "extreme", DPO_EXTREME, mixed, beta=1.0, label_smoothing=0.1),
        ],
        "hinge": [
            with_reference("hinge", "hard", DPO_ORDINARY, hard, beta=0.1),
            with_reference("hinge", "soft", DPO_ORDINARY, SOFT, beta=0.3),
            with_reference("hinge", "extreme", DPO_EXTREME, mixed, beta=1.0),
        ],
        "ipo": [
            with_reference("ipo", "hard", DPO_ORDINARY, hard, beta=0.1),
            with_reference("ipo", "soft", DPO_ORDINARY, SOFT, beta=0.5),
            with_reference("ipo", "extreme", DPO_EXTREME, mixed, beta=0.01),
        ],
        "simpo": [
            simpo("hard", *means, [1.0] * 4, 2.0, 1.0),
            simpo("soft", *means, [0.5, 0.9, 0.125, 0.75], 2.5, 0.5),
            simpo("extreme", [0.0, -500.0, -90.0], [-500.0, 0.0, -90.0], [0.75, 0.9, 0.5], 10.0, 3.0),
        ],
        "kto": [
            kto("hard", {**DPO_ORDINARY, **OTHERS}, hard, beta=0.1),
            kto("soft", {**DPO_ORDINARY, **OTHERS}, SOFT, beta=0.5, desirable_weight=1.5, undesirable_weight=0.75),
            kto("below_the_reference", {**DPO_ORDINARY, **OTHERS_BELOW}, SOFT, beta=0.3),
            kto("extreme", {**DPO_EXTREME, **OTHERS}, mixed, beta=1.0),
        ],
    }


# orpo --------------------------------------------------------------------------------------------


def log_odds(logps):
    return logps - torch.log(-torch.expm1(logps))


def orpo(name, inputs, lengths, p_chosen, beta, prompts=None, prompt_weight=0.0):
    """Rows of `inputs` hold the prompt's tokens, of which there are `prompts`, then the answer's."""
    sides, q = ("chosen", "rejected"), {"chosen": constant(p_chosen), "rejected": 1 - constant(p_chosen)}
    prompts = prompts or [0] * len(p_chosen)
    leaves = {side: leaf(inputs[f"policy_{side}_logprobs"]) for side in sides}
    logps, weights = {}, {}
    for side in sides:
        own = torch.tensor(lengths[side])[:, None]
        start = torch.tensor(prompts)[:, None]
        position = torch.arange(leaves[side].shape[1])[None]
        answer = ((position >= start) & (position < start + own)).double()
        logps[side] = (leaves[side] * answer).sum(1) / answer.sum(1)
        weights[side] = answer + prompt_weight * (position < start).double()
    o = log_odds(logps["chosen"]) - log_odds(logps["rejected"])
    rows = -beta * (q["chosen"] * logsigmoid(o) + q["rejected"] * logsigmoid(-o))
    likelihood = sum((q[side][:, None] * weights[side] * leaves[side]).sum() for side in sides)
    nll = -likelihood / sum((q[side][:, None] * weights[side]).sum() for side in sides)
    loss = nll + rows.mean()
    return {
        "name": name,
        "beta": beta,
        "prompt_weight": prompt_weight,
        "inputs": {
            **{f"policy_{side}_logprobs": inputs[f"policy_{side}_logprobs"] for side in sides},
            **{f"{side}_lengths": lengths[side] for side in sides},
            "prompts": prompts,
            "p_chosen": p_chosen,
        },
        "expected": {
            "loss": loss,
            "per_row": rows,
            "nll": nll,
            "log_odds_ratio": o,
            "gradient": gradients(loss, **{f"policy_{side}_logprobs": leaves[side] for side in sides}),
        },
    }


def orpo_cases():
    shorter = {side: [length - 1 for length in lengths] for side, lengths in DPO_LENGTHS.items()}
    with_prompt = [index for index in range(5) if min(side[index] for side in shorter.values()) > 0]
    picked = lambda rows: [rows[index] for index in with_prompt]  # noqa: E731
    prompted = {name: picked(rows) for name, rows in DPO_TOKENS.items()}
    # Chosen almost sure, hopeless; as sure as it gets.
    extreme = {
        "policy_chosen_logprobs": [[-1e-4, -1e-5], [-700.0, -77.0], [-1e-3, -1e-3]],
        "policy_rejected_logprobs": [[-90.0, -60.0], [-1e-3, -2e-3], [-1e-3, -77.0]],
    }
    extreme_lengths = {"chosen": [2, 1, 2], "rejected": [2, 2, 1]}
    soft = [0.5, 0.9, 0.125, 1.0, 0.7310585786300049]
    return [
        orpo("hard", DPO_TOKENS, DPO_LENGTHS, [1.0] * 5, 0.1),
        orpo("soft", DPO_TOKENS, DPO_LENGTHS, soft, 0.5),
        orpo(
            "prompt",
            prompted,
            {side: picked(lengths) for side, lengths in shorter.items()},
            picked(soft),
            0.25,
            prompts=[1] * len(with_prompt),
            prompt_weight=0.5,
        ),
        orpo("extreme", extreme, extreme_lengths, [0.75, 0.9, 1.0], 1.0),
    ]


# dpo_length --------------------------------------------------------------------------------------

# Lengths 5, 2, 3, 4, 1 and 2, 4, 3, 1, 5 of 5; -77 and 66 are padding.
DPO_LENGTHS = {"chosen": [5, 2, 3, 4, 1], "rejected": [2, 4, 3, 1, 5]}

DPO_TOKENS = {
    "policy_chosen_logprobs": [
        [-0.5, -1.25, -3.0, -0.125, -2.5],
        [-4.0, -0.75, -77.0, -77.0, -77.0],
        [-0.25, -1.5, -6.0, -77.0, -77.0],
        [-2.0, -0.0625, -1.0, -9.5, -77.0],
        [-1.75, -77.0, -77.0, -77.0, -77.0],
    ],
    "policy_rejected_logprobs": [
        [-0.75, -2.0, -77.0, -77.0, -77.0],
        [-1.0, -0.5, -3.25, -0.875, -77.0],
        [-5.0, -0.375, -2.25, -77.0, -77.0],
        [-3.5, -77.0, -77.0, -77.0, -77.0],
        [-0.1875, -1.125, -0.625, -8.0, -2.75],
    ],
    "reference_chosen_logprobs": [
        [-0.75, -1.0, -2.5, -0.25, -4.0],
        [-3.0, -1.5, 66.0, 66.0, 66.0],
        [-0.5, -1.25, -5.0, 66.0, 66.0],
        [-2.5, -0.125, -1.5, -7.0, 66.0],
        [-1.25, 66.0, 66.0, 66.0, 66.0],
    ],
    "reference_rejected_logprobs": [
        [-1.5, -1.75, 66.0, 66.0, 66.0],
        [-0.5, -0.75, -4.0, -0.625, 66.0],
        [-4.5, -0.625, -1.75, 66.0, 66.0],
        [-2.0, 66.0, 66.0, 66.0, 66.0],
        [-0.25, -1.0, -0.875, -6.5, -3.5],
    ],
}

DRAWN = {
    "chosen": [[0, 1, 0, 0, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 1, 0, 0], [1, 0, 0, 0, 0]],
    "rejected": [[1, 1, 0, 0, 0], [1, 0, 0, 1, 0], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 1, 0]],
}


def token_weights(control, side, alpha):
    """(B, T): the weights of the answers of one side."""
    own, shared = DPO_LENGTHS[side], [min(pair) for pair in zip(*DPO_LENGTHS.values())]
    position = torch.arange(5)[None]
    counted = position < torch.tensor(own)[:, None]
    if control == "normalised":
        return counted.double() / torch.tensor(own)[:, None].double()
    if control == "desensitised":
        front = position < torch.tensor(shared)[:, None]
        # TRL's form: positions counted from 1 over the completion's mask.
        trl_position = counted.long().cumsum(1)
        trl_shared = (trl_position > 0) & (trl_position <= torch.tensor(shared)[:, None])
        trl_tail = trl_position > torch.tensor(shared)[:, None]
        weights = torch.where(front, 1.0, alpha).double() * counted
        trl_weights = trl_shared.double() * counted + alpha * trl_tail.double() * counted
        assert torch.equal(weights, trl_weights)
        return weights
    if control == "down-sampled":
        weights = constant(DRAWN[side])
        assert weights.sum(1).tolist() == shared and (weights <= counted).all()
        return weights
    return counted.double()


def dpo_length(control, p_chosen, beta, alpha=None):
    inputs = DPO_TOKENS
    chosen, rejected = leaf(inputs["policy_chosen_logprobs"]), leaf(inputs["policy_rejected_logprobs"])
    reference_chosen = constant(inputs["reference_chosen_logprobs"])
    reference_rejected = constant(inputs["reference_rejected_logprobs"])
    of_chosen, of_rejected = token_weights(control, "chosen", alpha), token_weights(control, "rejected", alpha)
    chosen_rewards = beta * ((chosen - reference_chosen) * of_chosen).sum(1)
    rejected_rewards = beta * ((rejected - reference_rejected) * of_rejected).sum(1)
    longer = constant(DPO_LENGTHS["chosen"]) - constant(DPO_LENGTHS["rejected"])
    margin = alpha * longer if control == "margin" else 0.0
    rows = preference_rows(chosen_rewards - rejected_rewards + margin, constant(p_chosen))
    loss = rows.mean()
    soft = "hard" if set(p_chosen) == {1.0} else "soft"
    drawn = {f"{side}_drawn": rows for side, rows in DRAWN.items()} if control == "down-sampled" else {}
    lengths = {f"{side}_lengths": row for side, row in DPO_LENGTHS.items()}
    return {
        "name": f"{control}_{soft}",
        "control": control,
        "alpha": alpha,
        "beta": beta,
        "inputs": {**inputs, **lengths, **drawn, "p_chosen": p_chosen},
        "expected": {
            "loss": loss,
            "per_row": rows,
            "chosen_rewards": chosen_rewards,
            "rejected_rewards": rejected_rewards,
            "gradient": gradients(loss, policy_chosen_logprobs=chosen, policy_rejected_logprobs=rejected),
        },
    }


def dpo_length_cases():
    cases = []
    for p_chosen in ([1.0] * 5, [0.5, 0.9, 0.125, 1.0, 0.7310585786300049]):
        cases += [
            dpo_length("none", p_chosen, 0.5),
            dpo_length("normalised", p_chosen, 5.0),
            dpo_length("margin", p_chosen, 0.5, alpha=0.25),
            dpo_length("desensitised", p_chosen, 0.5, alpha=0.375),
            dpo_length("down-sampled", p_chosen, 0.5),
        ]
    return cases


# bradley_terry -----------------------------------------------------------------------------------

REWARDS = {
    "chosen_rewards": [1.25, -0.5, 3.0, 0.1, -2.75, 0.625],
    "rejected_rewards": [0.75, 0.25, -1.5, 0.1, -2.0, -4.0],
}

REWARDS_EXTREME = {
    "chosen_rewards": [100.0, -100.0, 60.0, -55.0, 0.0],
    "rejected_rewards": [0.0, 0.0, -40.0, 45.0, 0.0],
}


def bradley_terry(name, inputs, p_chosen, margin=None, centre_coef=None):
    chosen, rejected = leaf(inputs["chosen_rewards"]), leaf(inputs["rejected_rewards"])
    difference = chosen - rejected - (0.0 if margin is None else constant(margin))
    rows = preference_rows(difference, constant(p_chosen))
    centre = (centre_coef or 0.0) * ((chosen + rejected) ** 2).mean()
    loss = rows.mean() + centre
    return {
        "name": name,
        "centre_coef": centre_coef,
        "inputs": {**inputs, "p_chosen": p_chosen, "margin": margin},
        "expected": {
            "loss": loss,
            "per_row": rows,
            "centre_loss": centre,
            "gradient": gradients(loss, chosen_rewards=chosen, rejected_rewards=rejected),
        },
    }


def bradley_terry_cases():
    soft, margin = [0.9, 0.5, 1.0, 0.25, 0.0, 0.6], [0.5, 0.0, 1.0, -0.25, 2.0, 0.125]
    return [
        bradley_terry("hard", REWARDS, [1.0] * 6),
        bradley_terry("soft", REWARDS, soft),
        bradley_terry("margin", REWARDS, [1.0] * 6, margin=margin),
        bradley_terry("centred", REWARDS, [1.0] * 6, centre_coef=0.01),
        bradley_terry("soft_margin_centred", REWARDS, soft, margin=margin, centre_coef=0.05),
        bradley_terry("extreme_hard", REWARDS_EXTREME, [1.0] * 5),
        bradley_terry("extreme_soft", REWARDS_EXTREME, [0.75, 0.25, 0.9, 0.5, 0.0]),
    ]


# reward_length, length_slope -----------------------------------------------------------------------

ANSWER_TOKENS = [31, 12, 55, 20, 8, 40, 30, 25, 14, 20, 33, 41]
LENGTH_REWARDS = [0.5, -0.25, 1.5, 0.125, -1.0, 0.75, 0.25, 0.0, -0.5, 0.375, 0.625, 0.875]
QUALITY_WEIGHT = [[0.5], [-1.25], [0.75], [2.0]]
LENGTH_WEIGHT = [[1.0], [0.25], [-0.5], [-1.5]]


def residual(name, p_chosen, slope, scale=10.0, centre_coef=None):
    chosen, rejected = leaf(REWARDS["chosen_rewards"]), leaf(REWARDS["rejected_rewards"])
    coefficient = leaf([slope])
    tokens = constant(ANSWER_TOKENS[:6]) - constant(ANSWER_TOKENS[6:])
    rows = preference_rows(chosen - rejected + coefficient * torch.tanh(tokens / scale), constant(p_chosen))
    loss = rows.mean() + (centre_coef or 0.0) * ((chosen + rejected) ** 2).mean()
    return {
        "name": name,
        "control": "residual",
        "scale": scale,
        "centre_coef": centre_coef,
        "inputs": {**REWARDS, "p_chosen": p_chosen, "tokens": tokens, "slope": [slope]},
        "expected": {
            "loss": loss,
            "gradient": gradients(loss, chosen_rewards=chosen, rejected_rewards=rejected, slope=coefficient),
        },
    }


def correlation(x, y):
    return torch.corrcoef(torch.stack((x, y)))[0, 1]


def decorrelated(name, p_chosen, length_coef, orthogonal_coef, length_rewards=LENGTH_REWARDS, centre_coef=None):
    chosen, rejected = leaf(REWARDS["chosen_rewards"]), leaf(REWARDS["rejected_rewards"])
    length, tokens = leaf(length_rewards), constant(ANSWER_TOKENS)
    quality_weight, length_weight = leaf(QUALITY_WEIGHT), leaf(LENGTH_WEIGHT)
    rows = preference_rows(chosen - rejected + length[:6] - length[6:], constant(p_chosen))
    follows = correlation(torch.cat((chosen, rejected)), tokens).abs() - correlation(length, tokens)
    angle = torch.cosine_similarity(quality_weight, length_weight, dim=0).abs().sum()
    loss = rows.mean() + (centre_coef or 0.0) * ((chosen + rejected) ** 2).mean()
    loss = loss + length_coef * follows + orthogonal_coef * angle
    return {
        "name": name,
        "control": "decorrelated",
        "length_coef": length_coef,
        "orthogonal_coef": orthogonal_coef,
        "centre_coef": centre_coef,
        "inputs": {
            **REWARDS,
            "p_chosen": p_chosen,
            "length_rewards": length_rewards,
            "tokens": ANSWER_TOKENS,
            "quality_weight": QUALITY_WEIGHT,
            "length_weight": LENGTH_WEIGHT,
        },
        "expected": {
            "loss": loss,
            "gradient": gradients(
                loss,
                chosen_rewards=chosen,
                rejected_rewards=rejected,
                length_rewards=length,
                quality_weight=quality_weight,
                length_weight=length_weight,
            ),
        },
    }


def reward_length_cases():
    soft, falling = [0.9, 0.5, 1.0, 0.25, 0.0, 0.6], [-reward for reward in LENGTH_REWARDS]
    return [
        residual("residual_begins", [1.0] * 6, 0.0),
        residual("residual_soft", soft, 0.75, centre_coef=0.05),
        residual("residual_negative", soft, -1.5, scale=25.0),
        decorrelated("decorrelated_hard", [1.0] * 6, 1.0, 1.0),
        decorrelated("decorrelated_soft", soft, 0.5, 0.25, centre_coef=0.05),
        # A length head that follows brevity is pulled round, not let be.
        decorrelated("decorrelated_falling", soft, 1.0, 0.125, length_rewards=falling),
    ]


def length_slope(name, rewards, tokens):
    candidates = [reward / token for reward, token in zip(rewards, tokens) if token != 0]
    rewards_, tokens_ = constant(rewards), constant(tokens)
    deviation = [(rewards_ - slope * tokens_).abs().sum().item() for slope in candidates]
    best = sorted(range(len(candidates)), key=lambda index: deviation[index])
    # One minimum, so the answer is not a matter of ties.
    assert len(best) < 2 or deviation[best[1]] - deviation[best[0]] > 1e-6
    return {
        "name": name,
        "inputs": {"rewards": rewards, "tokens": tokens},
        "expected": {"slope": candidates[best[0]] if best else 0.0},
    }


def length_slope_cases():
    return [
        length_slope("mixed", [0.5, -1.25, 3.0, 0.125, -0.5, 2.0, 0.0], [10, -20, -4, 3, 0, 15, 7]),
        # Three of nine pairs differ in quality: least squares would say -0.06.
        length_slope("outliers", [0.11, 0.19, -0.32, 0.4, -0.15, 0.6, -4.0, 3.5, -3.0], [5, 10, -16, 20, -8, 31, 6, -9, 12]),
        length_slope("equal_lengths", [1.0, -2.0], [0, 0]),
    ]


# gae, whiten -------------------------------------------------------------------------------------

# Row lengths 6, 3, 1, 5, 4 of 6; 77 and -88 are padding.
MASK = [
    [1, 1, 1, 1, 1, 1],
    [1, 1, 1, 0, 0, 0],
    [1, 0, 0, 0, 0, 0],
    [1, 1, 1, 1, 1, 0],
    [1, 1, 1, 1, 0, 0],
]

TOKEN_REWARDS = [
    [-0.01, 0.02, -0.03, 0.005, -0.015, 1.5],
    [0.04, -0.02, -2.25, 77.0, 77.0, 77.0],
    [0.75, 77.0, 77.0, 77.0, 77.0, 77.0],
    [0.0, 0.0, 0.0, 0.0, 100.0, 77.0],
    [0.1, -0.2, 0.3, -100.0, 77.0, 77.0],
]

VALUES = [
    [0.5, 0.625, 0.4, 0.9, 1.1, 1.3],
    [-0.25, -1.0, -1.75, -88.0, -88.0, -88.0],
    [0.2, -88.0, -88.0, -88.0, -88.0, -88.0],
    [3.0, 10.0, 30.0, 60.0, 90.0, -88.0],
    [0.0, -5.0, -20.0, -70.0, -88.0, -88.0],
]


def gae(name, gamma, gae_lambda):
    advantages, returns = torch.zeros(5, 6).double(), torch.zeros(5, 6).double()
    for row, counted in enumerate(MASK):
        following_value = following_advantage = 0.0
        for t in reversed(range(sum(counted))):
            value = VALUES[row][t]
            delta = TOKEN_REWARDS[row][t] + gamma * following_value - value
            following_advantage = delta + gamma * gae_lambda * following_advantage
            following_value = value
            advantages[row, t] = following_advantage
            returns[row, t] = following_advantage + value

    # The same by the definition: A_t = sum over k of (gamma lambda)^k delta_{t+k}.
    mask = constant(MASK)
    values, rewards = constant(VALUES) * mask, constant(TOKEN_REWARDS) * mask
    following = torch.cat((values[:, 1:], torch.zeros(5, 1)), dim=1)
    deltas = (rewards + gamma * following - values) * mask
    for t in range(6):
        weights = constant([(gamma * gae_lambda) ** k for k in range(6 - t)])
        by_definition = (deltas[:, t:] * weights).sum(1) * mask[:, t]
        assert torch.allclose(by_definition, advantages[:, t], rtol=1e-12, atol=1e-12)
    return {
        "name": name,
        "gamma": gamma,
        "gae_lambda": gae_lambda,
        "inputs": {"rewards": TOKEN_REWARDS, "values": VALUES, "mask": MASK},
        "expected": {"advantages": advantages, "returns": returns},
    }


def gae_cases():
    return [
        gae("undiscounted", 1.0, 0.95),
        gae("discounted", 0.99, 0.9),
        gae("one_step", 0.9, 0.0),
        gae("monte_carlo", 1.0, 1.0),
    ]


def whiten(name, values, mask):
    counted = constant(values)[constant(mask) > 0]
    whitened = (constant(values) - counted.mean()) / torch.sqrt(counted.var(unbiased=True) + 1e-8)
    return {
        "name": name,
        "inputs": {"values": values, "mask": mask},
        "expected": {"whitened": torch.where(constant(mask) > 0, whitened, 0.0)},
    }


def whiten_cases():
    ragged = [[0.5, -1.25, 2.0, 0.0], [3.5, 77.0, 77.0, 77.0], [-0.75, 0.125, 77.0, 77.0]]
    ragged_mask = [[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]
    extreme = [[100.0, -100.0, 99.0], [-98.0, 0.0, -1e6]]
    return [
        whiten("ragged", ragged, ragged_mask),
        whiten("extreme", extreme, [[1, 1, 1], [1, 1, 0]]),
        whiten("constant", [[0.5, 0.5], [0.5, 77.0]], [[1, 1], [1, 0]]),
    ]


# ppo ---------------------------------------------------------------------------------------------

PPO_MASK = [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]

# Ratios on both sides of both bounds with advantages of both signs; the values leave the clip
# range upwards and downwards, towards the return and away from it.
PPO = {
    "logprobs": [
        [-1.1, -0.35, -2.6, -0.9, -3.0],
        [-0.5, -1.75, -0.02, -40.0, -40.0],
        [-2.2, -0.7, -1.3, -4.5, -40.0],
        [-0.8, -40.0, -40.0, -40.0, -40.0],
        [-6.0, -0.11, -1.9, -2.45, -0.6],
    ],
    "old_logprobs": [
        [-1.15, -0.9, -2.3, -0.85, -2.1],
        [-0.95, -1.7, -0.03, -1.0, -1.0],
        [-1.6, -1.25, -1.35, -4.1, -1.0],
        [-1.9, -1.0, -1.0, -1.0, -1.0],
        [-5.5, -0.1, -2.5, -2.5, -0.2],
    ],
    "advantages": [
        [0.8, 1.5, 0.6, -0.9, -1.4],
        [-0.7, 0.3, 1.1, 50.0, 50.0],
        [-1.9, 0.45, -0.25, 2.1, 50.0],
        [-0.55, 50.0, 50.0, 50.0, 50.0],
        [1.3, -0.15, -2.2, 0.95, 0.7],
    ],
    "values": [
        [0.5, 1.3, -0.4, 0.25, 2.0],
        [-0.6, 0.1, 0.9, -88.0, -88.0],
        [1.7, -1.2, 0.35, 0.05, -88.0],
        [0.75, -88.0, -88.0, -88.0, -88.0],
        [-2.0, 0.65, 1.05, -0.3, 0.15],
    ],
    "old_values": [
        [0.45, 0.8, 0.2, 0.3, 1.1],
        [-0.5, 0.55, 0.85, 9.0, 9.0],
        [1.0, -0.6, 0.4, 0.5, 9.0],
        [0.3, 9.0, 9.0, 9.0, 9.0],
        [-1.1, 0.7, 0.5, -0.85, 0.1],
    ],
    "returns": [
        [1.0, 1.4, 0.7, -0.5, 0.2],
        [-1.3, 0.05, 0.15, 99.0, 99.0],
        [0.6, -1.9, 0.95, -0.45, 99.0],
        [1.25, 99.0, 99.0, 99.0, 99.0],
        [0.3, 0.25, 1.6, -0.35, -0.7],
    ],
    "mask": PPO_MASK,
}

# exp(100) is beyond float32, and so is its product with an advantage, but neither the loss nor a
# gradient is: a positive advantage clips it. A plain float32 backward pass gives 0 * inf = NaN.
PPO_EXTREME = {
    "logprobs": [[-1.0, -101.0, -101.0], [-0.5, -2.0, -40.0]],
    "old_logprobs": [[-101.0, -1.0, -1.0], [-0.6, -1.9, -1.0]],
    "advantages": [[1.5, 0.75, -0.5], [0.4, -0.3, 50.0]],
    "values": [[100.0, -100.0, 0.5], [1.0, -1.0, -88.0]],
    "old_values": [[0.0, 0.25, 0.4], [0.9, 2.0, 9.0]],
    "returns": [[1.0, -1.5, 0.0], [0.2, 0.1, 99.0]],
    "mask": [[1, 1, 1], [1, 1, 0]],
}

# The same with a negative advantage at a ratio of exp(100): only the dual clip bounds it.
PPO_UNBOUNDED = {**PPO_EXTREME, "advantages": [[-1.5, 0.75, 0.5], [-0.4, 0.3, 50.0]]}


def clipped_surrogate(advantages, ratio, clip_range, dual_clip=None):
    """The policy's loss of each element, and what is clipped."""
    held = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    free = -advantages * ratio
    losses = torch.maximum(free, held)
    if dual_clip is not None:
        losses = torch.where(advantages < 0, torch.minimum(losses, -advantages * dual_clip), losses)
    return losses, held > free


def ppo(name, inputs, clip_range, clip_range_value, vf_coef, dual_clip=None):
    logprobs, values = leaf(inputs["logprobs"]), leaf(inputs["values"])
    old_logprobs, old_values = constant(inputs["old_logprobs"]), constant(inputs["old_values"])
    advantages, returns = constant(inputs["advantages"]), constant(inputs["returns"])
    mask = constant(inputs["mask"])

    difference = logprobs - old_logprobs
    ratio = difference.exp()
    clipped_ratio = ratio.clamp(1 - clip_range, 1 + clip_range)
    free, held = -advantages * ratio, -advantages * clipped_ratio
    losses, _ = clipped_surrogate(advantages, ratio, clip_range, dual_clip)
    if dual_clip is None:
        assert torch.equal(losses, torch.maximum(free, held))
    else:
        # The bound is reached somewhere, and nowhere exactly.
        assert ((losses < torch.maximum(free, held)) & (mask > 0)).any()
        assert ((free + advantages * dual_clip).abs() > 1e-6)[mask > 0].all()
    policy_loss = masked_mean(losses, mask)

    value_free = (values - returns) ** 2
    value_held = value_free
    if clip_range_value is not None:
        low, high = old_values - clip_range_value, old_values + clip_range_value
        value_held = (values.clamp(low, high) - returns) ** 2
    value_loss = 0.5 * masked_mean(torch.maximum(value_free, value_held), mask)

    # No counted token is at a bound or at a tie, so every gradient is a derivative.
    counted = mask > 0
    assert ((ratio - clipped_ratio == 0) | ((free - held).abs() > 1e-6))[counted].all()
    for bound in (1 - clip_range, 1 + clip_range):
        assert ((ratio - bound).abs() > 1e-6)[counted].all()
    if clip_range_value is not None:
        inside = (values > low + 1e-6) & (values < high - 1e-6)
        outside = (values < low - 1e-6) | (values > high + 1e-6)
        assert (inside | (outside & ((value_free - value_held).abs() > 1e-6)))[counted].all()

    loss = policy_loss + vf_coef * value_loss
    return {
        "name": name,
        "clip_range": clip_range,
        "clip_range_value": clip_range_value,
        "vf_coef": vf_coef,
        "dual_clip": dual_clip,
        "inputs": inputs,
        "expected": {
            "loss": loss,
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "clipfrac": masked_mean((held > free).double(), mask),
            "value_clipfrac": masked_mean((value_held > value_free).double(), mask),
            "approx_kl": 0.5 * masked_mean(difference**2, mask),
            "ratio": masked_mean(difference.clamp(-20, 20).exp(), mask),
            "gradient": gradients(loss, logprobs=logprobs, values=values),
        },
    }


def ppo_cases():
    return [
        ppo("clipped", PPO, 0.2, 0.2, 0.1),
        ppo("value_clipping_off", PPO, 0.2, None, 0.1),
        ppo("extreme", PPO_EXTREME, 0.2, 0.2, 0.1),
        ppo("dual_clip", PPO, 0.2, 0.2, 0.1, dual_clip=1.5),
        ppo("dual_clip_extreme", PPO_UNBOUNDED, 0.2, None, 0.1, dual_clip=3.0),
    ]


# sft, kl_penalty ---------------------------------------------------------------------------------


def sft(name, logprobs_rows, weights_rows):
    logprobs, weights = leaf(logprobs_rows), constant(weights_rows)
    loss = -(weights * logprobs).sum() / weights.sum()
    return {
        "name": name,
        "inputs": {"logprobs": logprobs_rows, "weights": weights_rows},
        "expected": {"loss": loss, "gradient": gradients(loss, logprobs=logprobs)},
    }


def sft_cases():
    rows = [
        [-0.25, -1.5, -3.125, -0.01],
        [-2.0, -0.75, -100.0, -88.0],
        [-0.5, -12.5, -0.375, -6.0],
        [-1e-6, -88.0, -88.0, -88.0],
        [-4.0, -0.125, -2.25, -0.9],
    ]
    mask = [[0, 1, 1, 1], [1, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    weighted = [[0, 0.5, 0.5, 2], [1, 1, 0.25, 0], [0, 0, 1.5, 1], [3, 0, 0, 0], [0.1, 0.1, 0.1, 0.7]]
    return [
        sft("mask", rows, [[float(w) for w in row] for row in mask]),
        sft("weighted", rows, [[float(w) for w in row] for row in weighted]),
    ]


def kl_penalty_case(name, logprobs_rows, reference_rows):
    expected = {}
    for estimator in ("k1", "k2", "k3"):
        logprobs = leaf(logprobs_rows)
        log_ratio = constant(reference_rows) - logprobs
        value = {"k1": -log_ratio, "k2": log_ratio**2 / 2, "k3": log_ratio.exp() - 1 - log_ratio}[estimator]
        expected[estimator] = value
        # Each token's own derivative: the gradient of the sum.
        expected[f"{estimator}_gradient"] = gradients(value.sum(), logprobs=logprobs)
    return {
        "name": name,
        "inputs": {"logprobs": logprobs_rows, "reference_logprobs": reference_rows},
        "expected": expected,
    }


def kl_penalty_cases():
    return [
        kl_penalty_case(
            "ordinary",
            [[-0.5, -1.25, -3.0, -0.75], [-2.0, -0.125, -0.25, -5.0]],
            [[-0.75, -1.25, -2.5, -4.0], [-2.125, -1.0, -0.0625, -3.5]],
        ),
        # k3 of the first is 99; of the second exp(50), which float32 holds.
        kl_penalty_case("extreme", [[-1.0, -51.0, -0.1]], [[-101.0, -1.0, -20.1]]),
    ]


# adamw -------------------------------------------------------------------------------------------


def adamw_case(name, weight_decay):
    settings = dict(lr=1e-2, betas=(0.9, 0.98), eps=1e-8, weight_decay=weight_decay)
    max_grad_norm = 1.0
    start = {
        "first": [0.5, -1.25, 2.0, 0.0, -0.03125, 10.0, -0.75],
        "second": [[1.0, -0.5], [0.25, 3.0]],
    }
    # Step 3's norm is below max_grad_norm, so it is not clipped; step 4's is far above it.
    given = [
        ([0.3, -0.2, 1.5, 0.0, -0.7, 0.05, 2.0], [[0.4, -1.0], [0.0, 0.6]]),
        ([-0.1, 0.9, 0.35, 1e-3, 0.25, -3.0, 0.8], [[-0.2, 0.15], [1.1, -0.45]]),
        ([0.02, -0.01, 0.3, 0.0, 0.1, 0.2, -0.15], [[0.05, 0.25], [-0.3, 0.12]]),
        ([100.0, -20.0, 3.0, 0.5, -40.0, 7.0, 0.25], [[-100.0, 9.0], [0.01, 30.0]]),
        ([0.6, 0.7, -0.8, 0.2, -0.4, 0.9, -1.1], [[0.0, 0.0], [0.0, 0.0]]),
    ]
    parameters = {key: torch.nn.Parameter(constant(value)) for key, value in start.items()}
    optimiser = torch.optim.AdamW(parameters.values(), **settings, foreach=False)
    steps = []
    for pair in given:
        for parameter, gradient in zip(parameters.values(), pair):
            parameter.grad = constant(gradient)
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), max_grad_norm)
        assert (norm < max_grad_norm) == (pair is given[2])
        clipped = {key: parameter.grad.clone() for key, parameter in parameters.items()}
        optimiser.step()
        steps.append(
            {
                "grad_norm": norm,
                "clipped_gradient": clipped,
                "parameter": {key: value.detach().clone() for key, value in parameters.items()},
            }
        )
    return {
        "name": name,
        "lr": settings["lr"],
        "beta1": settings["betas"][0],
        "beta2": settings["betas"][1],
        "eps": settings["eps"],
        "weight_decay": weight_decay,
        "max_grad_norm": max_grad_norm,
        "inputs": {
            "parameter": start,
            "gradient": [dict(zip(start, pair)) for pair in given],
        },
        "expected": {"steps": steps},
    }


def main():
    torch.set_num_threads(1)
    cases = {
        "dpo": dpo_cases(),
        "dpo_length": dpo_length_cases(),
        **family_cases(),
        "orpo": orpo_cases(),
        "bradley_terry": bradley_terry_cases(),
        "reward_length": reward_length_cases(),
        "length_slope": length_slope_cases(),
        "gae": gae_cases(),
        "whiten": whiten_cases(),
        "ppo": ppo_cases(),
        "sft": sft_cases(),
        "kl_penalty": kl_penalty_cases(),
        "adamw": [adamw_case("decay", 0.1), adamw_case("no_decay", 0.0)],
    }
    write_json(GOLDEN / "losses.json", cases)


if __name__ == "__main__":
    main()
