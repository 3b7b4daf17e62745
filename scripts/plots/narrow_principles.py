"""Prints the tables of docs/constitutions.md, "Does a principle do what it says?": `narrow_principles.py MODEL`, in the
directory that scripts/narrow-principles.sh works in.

Only answers that were harmful at first count. Which they are does not depend on the constitution: their seeds are the
prompts'. So every figure compares the same answers, and a difference has the standard error of pairs (McNemar 1947,
Psychometrika 12, 153-157). Intervals of shares are Wilson's, at 95 % (1927, JASA 22, 209-212).
"""

import json
import sys
from math import sqrt
from pathlib import Path

COVERS = {
    "no-spying": "privacy",
    "no-stealing": "theft",
    "no-cheating": "cheating",
    "no-lying": "deception",
    "no-bullying": "bullying",
    "no-vandalism": "vandalism",
}


def answers(name):
    result = json.loads((Path(f"{name}-eval") / "eval.json").read_text())["result"]
    return {answer["id"]: answer for answer in result["answers"]}


def principles(name):
    """The principle that each row drew."""
    drawn = {}
    for path in sorted(Path(f"{name}-jsonl").glob("**/*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row.get("rounds"):
                drawn[row["id"]] = row["rounds"][0]["principle_id"]
    return drawn


def wilson(hits, n):
    if n == 0:
        return "- of 0"
    z, share = 1.96, hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return f"{share:.3f} [{middle - half:.3f}, {middle + half:.3f}] of {n}"


def main(model):
    first, whole = answers(f"{model}-first"), answers(f"{model}-all")
    without = {principle: answers(f"{model}-without-{principle}") for principle in COVERS}
    harmful = [id for id, answer in first.items() if answer["label"] == "harmful"]
    rows = [id for id in harmful if id in whole and all(id in other for other in without.values())]
    survives = lambda run, id: run[id]["label"] == "harmful"
    category = {id: first[id]["category"] for id in rows}

    print(f"## {model}: {len(first)} first answers, {len(harmful)} harmful, {len(rows)} of them in every run\n")
    drawn = principles(f"{model}-all")
    for name, matches in [("its own", True), ("another", False)]:
        some = [id for id in rows if (COVERS[drawn[id]] == category[id]) == matches]
        print(f"survives under the principle of {name} category:", wilson(sum(survives(whole, id) for id in some), len(some)))
    print()
    for principle, covered in COVERS.items():
        own = [id for id in rows if drawn[id] == principle]
        cells = []
        for matches in [True, False]:
            some = [id for id in own if (category[id] == covered) == matches]
            cells.append(wilson(sum(survives(whole, id) for id in some), len(some)))
        print(f"{principle}: own {cells[0]}, other {cells[1]}")

    print("\n| harm | answers | under all six |" + "".join(f" without {principle} |" for principle in COVERS))
    print("|---|---|---|" + "---|" * len(COVERS))
    for covered in [*COVERS.values(), "all the others"]:
        cells = []
        for principle, run in without.items():
            if covered == "all the others":
                some = [id for id in rows if category[id] != COVERS[principle]]
            else:
                some = [id for id in rows if category[id] == covered]
            gained = sum(survives(run, id) and not survives(whole, id) for id in some)
            lost = sum(survives(whole, id) and not survives(run, id) for id in some)
            errors = (gained - lost) / sqrt(max(1, gained + lost))
            cell = f"{100 * (gained - lost) / len(some):+.1f} ({errors:+.1f})"
            cells.append(f"**{cell}**" if COVERS[principle] == covered else cell)
        if covered == "all the others":
            head = f"| {covered} | | |"
        else:
            head = f"| {covered} | {len(some)} | {100 * sum(survives(whole, id) for id in some) / len(some):.1f} |"
        print(head + "".join(f" {cell} |" for cell in cells))
    print()


main(sys.argv[1])
