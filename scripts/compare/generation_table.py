"""Medians, ratios and the bandwidth bound from the runs of scripts/compare-generation.sh, as Markdown.

    generation_table.py WORK_DIR     reads WORK_DIR/{runs.jsonl,bandwidth.jsonl,summary.json,out/}

The bound of a decoding step: every weight of the matrices and every cached key and value is read
once, at the bandwidth that bandwidth.c measured (best median of the same thread count). Bytes per
weight: f32 4, bf16 2, q8_0 34/32. Bytes per cached number: f32 4, otherwise 2. Rows share the
weights of a step. The logits, activations and all arithmetic count as free.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

PARAMETERS = 134_515_008
CACHED_PER_TOKEN = 2 * 30 * 3 * 64
WEIGHT_BYTES = {"f32": 4.0, "bf16": 2.0, "q8_0": 34 / 32}
CACHE_BYTES = {"f32": 4.0, "bf16": 2.0, "q8_0": 2.0}
PEERS = ["bylaw", "transformers", "transformers unsorted", "llama.cpp"]
TITLES = {
    "a8": "(a) 8 prompts, {mean} tokens in the mean, 64 new tokens each",
    "a32": "(a) 32 prompts, {mean} tokens in the mean, 64 new tokens each",
    "judge": "(b) judging {pairs} pairs in both orders, {shared_prefix} tokens shared by all, {mean} in the mean",
    "revise": "(c) 4 rounds of critique and revision over {rows} rows, 32 new tokens a turn, 9 turns",
}


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def bound_ms(task, dtype, summary, new_tokens, bandwidth):
    """Milliseconds of a decoding step at full bandwidth; the mean over the steps."""
    cached = summary[task]["rows"] * (summary[task]["mean"] + new_tokens / 2)
    read = PARAMETERS * WEIGHT_BYTES[dtype] + cached * CACHED_PER_TOKEN * CACHE_BYTES[dtype]
    return read / bandwidth / 1e9 * 1e3


def median(runs, key):
    values = [run[key] for run in runs if run.get(key) is not None]
    return statistics.median(values) if values else None


def number(value, form):
    return "" if value is None else format(value, form)


def generation_rows(task, groups, summary, bandwidth):
    yield ["engine", "dtype", "runs", "s", "min..max", "prefill s", "decode ms/step", "new tokens/s", "of the bound",
           "time against bylaw's"]
    for dtype in WEIGHT_BYTES:
        ours = median(groups.get((task, "bylaw", dtype), []), "seconds")
        for peer in PEERS:
            runs = groups.get((task, peer, dtype))
            if not runs:
                continue
            seconds, decode = median(runs, "seconds"), median(runs, "decode_seconds")
            per_row = runs[0]["new_tokens"] / summary[task]["rows"]
            # The prefill gives the first token.
            step = None if decode is None else decode / (per_row - 1) * 1e3
            share = None
            if step and bandwidth:
                share = bound_ms(task, dtype, summary, per_row, bandwidth) / step
            ratio = seconds / ours if ours and peer != "bylaw" else None
            yield [peer, dtype, len(runs), f"{seconds:.3f}", spread(runs), number(median(runs, "prefill_seconds"), ".3f"),
                   number(step, ".2f"), f"{runs[0]['new_tokens'] / seconds:.1f}", number(share, ".0%"),
                   number(ratio, ".2f") + ("x" if ratio else "")]


def plain_rows(task, groups):
    yield ["engine", "dtype", "runs", "s", "min..max", "prompt tokens", "new tokens", "time against bylaw's"]
    for dtype in WEIGHT_BYTES:
        ours = median(groups.get((task, "bylaw", dtype), []), "seconds")
        for peer in PEERS:
            runs = groups.get((task, peer, dtype))
            if not runs:
                continue
            seconds = median(runs, "seconds")
            ratio = seconds / ours if ours and peer != "bylaw" else None
            yield [peer, dtype, len(runs), f"{seconds:.1f}", spread(runs), runs[0]["prompt_tokens"],
                   runs[0]["new_tokens"], number(ratio, ".2f") + ("x" if ratio else "")]


def spread(runs):
    values = [run["seconds"] for run in runs]
    return f"{min(values):.2f}..{max(values):.2f}"


def markdown(rows):
    header, *body = [[str(cell) for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *body]]
    return "\n".join(lines)


def agreement(task, dtype, out):
    """How far bylaw's results of the last run agree with transformers' on the same prompts."""
    ours, theirs = (read_lines(out / f"{peer}-{task}-{dtype}.jsonl") for peer in ("bylaw", "transformers"))
    if not ours or not theirs:
        return None
    if len(ours) != len(theirs):
        return f"{task} {dtype}: bylaw wrote {len(ours)} rows, transformers {len(theirs)}"
    if task == "judge":
        worst = max(abs(a - b) for left, right in zip(ours, theirs) for a, b in zip(left, right))
        return f"{task} {dtype}: largest difference of a log-probability {worst:.2e}"
    pairs = [(flat(left), flat(right)) for left, right in zip(ours, theirs)]
    same = sum(left == right for left, right in pairs)
    share = statistics.mean(common_prefix(left, right) / len(right) for left, right in pairs)
    return f"{task} {dtype}: {same} of {len(pairs)} rows have the same tokens; common prefix {share:.0%} in the mean"


def flat(row):
    return sum(row, []) if row and isinstance(row[0], list) else row


def common_prefix(left, right):
    return next((i for i, (a, b) in enumerate(zip(left, right)) if a != b), min(len(left), len(right)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, metavar="WORK_DIR")
    work = parser.parse_args().work

    summary = json.loads((work / "prompts" / "summary.json").read_text())
    summary["judge"]["pairs"] = summary["judge"]["rows"] // 2
    groups = defaultdict(list)
    for run in read_lines(work / "runs.jsonl"):
        groups[run["task"], run["peer"], run["dtype"]].append(run)
    threads = {run["threads"] for runs in groups.values() for run in runs}
    measured = read_lines(work / "bandwidth.jsonl")
    print("| threads | pages | median GB/s | best GB/s |\n| --- | --- | --- | --- |")
    for line in measured:
        pages = "2 MiB" if line["huge_pages"] else "4 KiB"
        print(f"| {line['threads']} | {pages} | {line['median_gb_s']:.1f} | {line['best_gb_s']:.1f} |")
    bandwidth = max((line["median_gb_s"] for line in measured if line["threads"] in threads), default=None)
    for task, title in TITLES.items():
        if not any(key[0] == task for key in groups):
            continue
        rows = generation_rows(task, groups, summary, bandwidth) if task[0] == "a" else plain_rows(task, groups)
        print(f"\n{title.format(**summary[task])}\n\n{markdown(rows)}")
    checks = [agreement(task, dtype, work / "out") for task in TITLES for dtype in ("f32", "bf16")]
    if any(checks):
        print("\nAgreement with transformers:\n\n" + "\n".join(f"- {check}" for check in checks if check))


if __name__ == "__main__":
    main()
