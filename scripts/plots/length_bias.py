"""Plots and tables of docs/length-bias.md, from what scripts/length-bias.sh left: `length_bias.py RESULTS DOCS`."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

matplotlib.rcParams.update({"svg.hashsalt": "bylaw", "svg.fonttype": "none", "font.size": 9})
SEEDS = (0, 1, 2)


def read(path):
    return json.loads(Path(path).read_text())


def save(figure, path):
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def estimate(value):
    return f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def joined(values, decimals=2):
    return " / ".join("–" if value is None else f"{value:.{decimals}f}" for value in values)


def recorded(results):
    """Judges and people on pairs that others published."""
    rows = []
    for path in sorted(results.glob("recorded-*.json")):
        figures = read(path)["sections"][0]["figures"]
        rows.append((path.stem.removeprefix("recorded-"), figures))
    if not rows:
        return
    print("| verdicts | right | same in both orders | judge prefers the longer | people do | more than people |")
    print("|---|---|---|---|---|---|")
    for name, figures in rows:
        cells = [
            estimate(figures[key]) if key in figures else "–"
            for key in ("accuracy", "order_consistency", "prefer_longer", "gold_prefer_longer", "excess_longer")
        ]
        print("|", name, "|", " | ".join(cells), "|")
    print()


def controls(results, docs):
    """Labels of known quality before and after every control."""
    per_seed = [read(results / f"judge-{seed}" / "eval.json")["result"]["controls"] for seed in SEEDS]
    print("| control | labels | longer of two equals, seeds 0 / 1 / 2 | its probability | right on clear pairs |")
    print("|---|---|---|---|---|")
    names = [row["control"] for row in per_seed[0]]
    for name in names:
        rows = [next(row for row in seed if row["control"] == name) for seed in per_seed]
        share, probability, accuracy = (
            joined((row[key] for row in rows), 3)
            for key in ("prefer_longer_on_ties", "longer_probability_on_ties", "accuracy")
        )
        print(f"| {name} | {' / '.join(str(row['labels']) for row in rows)} | {share} | {probability} | {accuracy} |")
    print()
    figure, axes = plt.subplots(figsize=(5.2, 2.2))
    for index, name in enumerate(names):
        rows = [next(row for row in seed if row["control"] == name) for seed in per_seed]
        shares = [row["prefer_longer_on_ties"] for row in rows if row["prefer_longer_on_ties"] is not None]
        axes.plot(shares, [index] * len(shares), "o", color="#b4442e", ms=4)
        axes.plot([row["longer_probability_on_ties"] for row in rows], [index] * len(rows), "s", color="#2e6fb4", ms=4)
    axes.axvline(0.5, color="#888888", lw=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0.4, 1.0)
    axes.set_xlabel("the longer of two equals: share (circles), probability (squares)")
    save(figure, docs / "length-bias-controls.svg")


def policies(results, docs):
    """Policies with and without control: length and harm."""
    figure, axes = plt.subplots(figsize=(5.2, 2.6))
    names = [entry["name"] for entry in read(results / "seed-0.json")["ledger"]["entries"]]
    names = [name for name in names if name == "sft" or name.startswith(("dpo-", "ppo-"))]
    colours = {"sft": "#888888", "dpo-raw": "#b4442e", "dpo-residual": "#2e6fb4", "ppo-raw": "#e08a6d", "ppo-residual": "#3a8f4d"}
    print("| policy | harmful | helpful | tokens | longer than SFT by | wins | wins at equal length | gain that is length |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        rows = []
        for seed in SEEDS:
            summary = read(results / f"seed-{seed}.json")
            entry = next(entry for entry in summary["ledger"]["entries"] if entry["name"] == name)
            rows.append((summary["policies"][name], entry["against"] or {}))
        of = lambda against, key: (against.get(key) or {}).get("value")  # noqa: E731
        share = [
            of(against, "reward_gain_of_length") / of(against, "reward_gain")
            if name != "sft" and of(against, "reward_gain")
            else None
            for _, against in rows
        ]
        cells = [
            joined(policy["harmful"] for policy, _ in rows),
            joined(policy["helpful"] for policy, _ in rows),
            joined((policy["mean_tokens"] for policy, _ in rows), 1),
            joined(of(against, "longer_by") if name != "sft" else None for _, against in rows),
            joined(of(against, "win_rate") if name != "sft" else None for _, against in rows),
            joined(of(against, "length_controlled_win_rate") if name != "sft" else None for _, against in rows),
            joined(share),
        ]
        print("|", name, "|", " | ".join(cells), "|")
        if name not in colours:
            continue
        axes.plot(
            [policy["mean_tokens"] for policy, _ in rows],
            [100 * policy["harmful"] for policy, _ in rows],
            "o",
            color=colours[name],
            label=name,
            ms=5,
        )
    print()
    axes.set_xlabel("mean tokens of an answer")
    axes.set_ylabel("harmful, %")
    axes.legend(frameon=False)
    save(figure, docs / "length-bias-policies.svg")


def rewards(results):
    """Reward models: how right they are, and how they like length."""
    names = ["raw", "residual", "match", "weight", "closest", "expert", "heads"]
    print("| reward model | right on clear pairs, seeds 0 / 1 / 2 | longer of two equals |")
    print("|---|---|---|")
    for name in names:
        rows = [read(results / f"seed-{seed}" / f"eval-reward-{name}" / "eval.json")["result"]["after"] for seed in SEEDS]
        accuracy = joined(row["accuracy"] for row in rows)
        longer = joined(row["prefer_longer_on_ties"] for row in rows)
        print(f"| {name} | {accuracy} | {longer} |")
    print()


def changes(results, docs):
    """What padding, repeating and listing do to the bundled judge, and how calibrated it is."""
    audit = read(results / "audit.json")
    print("| change | preferred to itself | gain, log-odds | wins where it had lost | loses where it had won |")
    print("|---|---|---|---|---|")
    for effect in audit["changes"]:
        keys = ("preferred", "gain", "flips", "flips_back")
        print("|", effect["change"], "|", " | ".join(estimate(effect[key]) for key in keys), "|")
    print()
    bins = [bin for bin in audit["sections"][0]["reliability"] if bin["n"] >= 5]
    figure, axes = plt.subplots(figsize=(3.0, 2.6))
    axes.plot([0.5, 1], [0.5, 1], color="#888888", lw=0.8)
    axes.plot([bin["confidence"] for bin in bins], [bin["accuracy"] for bin in bins], "o-", color="#2e6fb4", ms=4)
    axes.set_xlabel("how sure the judge is")
    axes.set_ylabel("how often it is right")
    save(figure, docs / "length-bias-reliability.svg")


def main():
    results, docs = Path(sys.argv[1]), Path(sys.argv[2])
    recorded(results)
    controls(results, docs)
    rewards(results)
    policies(results, docs)
    changes(results, docs)


main()
