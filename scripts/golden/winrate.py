"""Makes tests/golden/winrate.json: length-controlled win rates by scikit-learn, scipy and AlpacaEval itself.

    python3 -m venv ../venv-winrate && ../venv-winrate/bin/pip install -r scripts/golden/requirements-winrate.txt
    ../venv-winrate/bin/python scripts/golden/winrate.py

The file is one object, `cases`, each with `name`, `l2`, `pairs` (rows of [model, instruction, len_model, len_baseline, p])
and `expected`, one entry for each model in the order of names:

    win_rate                     mean of p
    length_controlled_win_rate   mean of sigmoid(theta + psi gamma)
    coefficients                 [theta, phi] or [theta, phi, psi]

The second stage is sklearn.linear_model.LogisticRegression: its intercept, which it does not penalise, is theta, C is
1/l2, and a soft target p is a row with y = 1 of weight p and one with y = 0 of weight 1 - p. The first stage (joint
difficulties, standard normal priors on gamma and phi, 0.01 on theta) is minimised densely by scipy (trust-exact, then a root of the gradient); the
difficulty that a model is given is the root of the derivative over the other models' rows, by scipy's brentq.

`alpaca_eval` holds the length-controlled win rate of one model by `alpaca_eval.metrics.glm_winrate` 0.6.6 (its
`length_controlled_minimal` formula: no difficulty, no gamed baselines), with its file of difficulties replaced by a
stand-in that this formula does not read, and with cross-validation off and C = 1e6 in place of its grid: the same
objective as `l2 = 0`, by liblinear, whose stopping rule leaves about four digits.
"""

import json
from pathlib import Path

import numpy as np
from scipy.optimize import brentq, minimize, root
from sklearn.linear_model import LogisticRegression

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
THETA_PRIOR = 0.01
LEAST_PAIRS = 10


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def world(seed, models, instructions, hard=False):
    """Pairs of models of several qualities and verbosities; every third instruction is one model's own."""
    rng = np.random.default_rng(seed)
    gamma = rng.normal(0, 1, instructions)
    baseline = rng.integers(200, 2500, instructions)
    pairs = []
    for m in range(models):
        verbosity = 0.6 + 0.5 * m
        for i in range(instructions):
            if models > 1 and i % 3 == 2 and i % models != m:
                continue
            length = int(baseline[i] * verbosity * np.exp(rng.normal(0, 0.5)))
            effect = np.tanh((length - baseline[i]) / 900)
            log_odds = 0.4 * m - 0.5 + 1.5 * effect + gamma[i] + rng.normal(0, 0.7)
            p = float(log_odds > rng.logistic()) if hard else round(float(sigmoid(2 * log_odds)), 6)
            pairs.append([f"model-{m}", f"instruction {i}", length, int(baseline[i]), p])
            if i % 10 == 0:  # some are judged twice
                pairs.append([f"model-{m}", f"instruction {i}", length, int(baseline[i]), round(0.5 * p + 0.25, 6)])
    return [pairs[i] for i in rng.permutation(len(pairs))]


def effects(rows):
    difference = np.array([row[2] - row[3] for row in rows], dtype=float)
    return np.tanh(difference / difference.std(ddof=1))


def joint(trials, models, instructions):
    """theta, phi of the models and gamma of the instructions, all at once."""
    m, i, x, p = (np.array(column) for column in zip(*trials))
    columns = 2 * models + instructions
    design = np.zeros((len(trials), columns))
    rows = np.arange(len(trials))
    design[rows, m] = 1
    design[rows, models + m] = x
    design[rows, 2 * models + i] = 1
    prior = np.r_[np.full(models, THETA_PRIOR), np.ones(models + instructions)]

    def loss(beta):
        return np.sum(np.logaddexp(0, design @ beta) - p * (design @ beta)) + prior @ beta**2 / 2

    def gradient(beta):
        return design.T @ (sigmoid(design @ beta) - p) + prior * beta

    def hessian(beta):
        q = sigmoid(design @ beta)
        return (design.T * (q * (1 - q))) @ design + np.diag(prior)

    near = minimize(loss, np.zeros(columns), jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-6})
    # The loss is flat to the last bit long before the gradient is 0.
    found = root(gradient, near.x, jac=hessian, tol=1e-14)
    assert np.abs(gradient(found.x)).max() < 1e-11, found
    return found.x[:models], found.x[models : 2 * models]


def difficulties(names, by_model):
    """For each model, the difficulty of each of its rows, or None."""
    members = {}
    for m, name in enumerate(names):
        for row, x in zip(by_model[name], effects(by_model[name])):
            members.setdefault(row[1], []).append((m, x, row[4]))
    shared = sorted(key for key, trials in members.items() if len({m for m, _, _ in trials}) > 1)
    trials = [(m, i, x, p) for i, key in enumerate(shared) for m, x, p in members[key]]
    theta, phi = joint(trials, len(names), len(shared))

    def gamma(key, model):
        others = [(m, x, p) for m, x, p in members[key] if m != model]
        if not others:
            return None
        return brentq(lambda g: g + sum(sigmoid(theta[m] + phi[m] * x + g) - p for m, x, p in others), -50, 50, xtol=1e-14)

    return [[gamma(row[1], m) for row in by_model[name]] for m, name in enumerate(names)]


def regress(columns, p, l2):
    X = np.concatenate([columns, columns])
    y = np.r_[np.ones(len(p)), np.zeros(len(p))]
    weight = np.r_[p, 1 - p]
    model = LogisticRegression(C=1 / l2 if l2 else np.inf, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    model.fit(X[weight > 0], y[weight > 0], sample_weight=weight[weight > 0])
    return np.r_[model.intercept_, model.coef_[0]]


def measured(pairs, l2):
    names = sorted({row[0] for row in pairs})
    by_model = {name: [row for row in pairs if row[0] == name] for name in names}
    gammas = difficulties(names, by_model) if len(names) > 1 else [None]
    expected = []
    for name, gamma in zip(names, gammas):
        rows = by_model[name]
        p = np.array([row[4] for row in rows], dtype=float)
        columns = [effects(rows)]
        if gamma is not None:
            assert sum(value is not None for value in gamma) >= LEAST_PAIRS
            columns.append([0.0 if value is None else value for value in gamma])
        columns = np.array(columns).T
        beta = regress(columns, p, l2)
        columns[:, 0] = 0
        expected.append(
            {
                "model": name,
                "n": len(rows),
                "win_rate": p.mean(),
                "length_controlled_win_rate": sigmoid(beta[0] + columns @ beta[1:]).mean(),
                "coefficients": list(beta),
            }
        )
    return expected


def by_alpaca_eval(pairs):
    """AlpacaEval's own function on its own columns."""
    import tempfile

    import pandas as pd
    from alpaca_eval.metrics import glm_winrate

    keys = {key: index for index, key in enumerate(sorted({row[1] for row in pairs}))}
    stand_in = tempfile.NamedTemporaryFile("w", suffix=".csv", delete=False)
    pd.DataFrame(
        {"model": "none", "index": list(keys.values()), "instruction_difficulty": 0.0, "preference": 0.5}
    ).to_csv(stand_in, index=False)
    stand_in.close()
    glm_winrate.hf_hub_download = lambda **_: stand_in.name
    annotations = pd.DataFrame(
        {
            "generator_1": "baseline",
            "generator_2": row[0],
            "annotator": "none",
            "output_1": "x" * row[3],
            "output_2": "x" * row[2],
            "preference": 1 + row[4],
        }
        for row in pairs
    )
    annotations.index = [keys[row[1]] for row in pairs]
    annotations.index.name = "index"
    info = dict(glm_winrate.GLM_INFO["length_controlled_minimal"], kwargs={"n_splits": 0, "C": 1e6, "tol": 1e-12, "max_iter": 100000})
    found = glm_winrate.get_length_controlled_winrate(annotations, glm_name="length_controlled_minimal", glm_info=info, save_weights_dir=None)
    return {"win_rate": found["win_rate"] / 100, "length_controlled_win_rate": found["length_controlled_winrate"] / 100}


def main():
    alone, several, hard = world(1, 1, 120), world(2, 4, 75), world(3, 2, 90, hard=True)
    cases = [
        ("alone", alone, 1.0),
        ("alone, no penalty", alone, 0.0),
        ("several", several, 1.0),
        ("several, no penalty", several, 0.0),
        ("several, a strong penalty", several, 10.0),
        ("hard verdicts", hard, 1.0),
    ]
    document = {
        "cases": [{"name": name, "l2": l2, "pairs": pairs, "expected": measured(pairs, l2)} for name, pairs, l2 in cases],
        "alpaca_eval": {"case": "alone, no penalty", "expected": by_alpaca_eval(alone)},
    }
    text = json.dumps(document, indent=None, allow_nan=False, default=float)
    # One pair, or one model, on a line.
    for opening in ("{\"name\"", "{\"model\"", "[\"model-", "\"alpaca_eval\""):
        text = text.replace(" " + opening, "\n" + opening)
    (GOLDEN / "winrate.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
