"""How estimators of the effect of length at equal quality fare where better answers are longer: no effect is planted, or 0.42.

Log-odds are quality + effect * tanh(difference / 17) + noise. A share of the pairs is equally good; of the others the better is the
longer in 74 %, by a fixed amount or by a normally distributed one. Prints mean and spread of the slope over 40 sets of 400 labels.
The weighted median was bylaw's before; the Welsch estimator is the one in src/bias/measure.rs (at one scale).
"""

import numpy as np

SCALE = 17.0


def labels(rng, equal, effect, continuous):
    difference = rng.normal(0, SCALE, 400)
    better = np.where(rng.random(400) < 0.74, np.sign(difference), -np.sign(difference))
    amount = np.abs(rng.normal(0, 2.1, 400)) if continuous else 2.1
    quality = np.where(rng.random(400) < equal, 0.0, better * amount)
    x = np.tanh(difference / SCALE)
    return quality + effect * x + rng.normal(0, 0.3, 400), x


def weighted_median(odds, x):
    used = np.abs(x) > 0.05
    ratios, weights = odds[used] / x[used], np.abs(x[used])
    order = np.argsort(ratios)
    sums = np.cumsum(weights[order])
    return ratios[order][np.searchsorted(sums, sums[-1] / 2)]


def least_squares(odds, x):
    return (odds @ x) / (x @ x)


def welsch(odds, x):
    bandwidth, slope = 0.3 * np.abs(odds).mean(), 0.0
    for _ in range(100):
        weights = np.exp(-0.5 * ((odds - slope * x) / bandwidth) ** 2)
        slope = (weights * x * odds).sum() / (weights * x * x).sum()
    return slope


def main():
    print("| equal pairs | quality | planted | least squares | weighted median | Welsch |")
    print("|---|---|---|---|---|---|")
    for equal in (0.7, 0.4, 0.25):
        for continuous in (False, True):
            for effect in (0.0, 0.42):
                rng = np.random.default_rng(0)
                sets = [labels(rng, equal, effect, continuous) for _ in range(40)]
                cells = []
                for estimator in (least_squares, weighted_median, welsch):
                    found = [estimator(*one) for one in sets]
                    cells.append(f"{np.mean(found):.2f} ± {np.std(found):.2f}")
                kind = "continuous" if continuous else "two levels"
                print(f"| {equal:.0%} | {kind} | {effect:.2f} | {' | '.join(cells)} |")


main()
