"""Opens what bylaw wrote with pyarrow, polars and datasets, and compares what they see.

    open_exports.py DIR...

Each DIR is a dataset of bylaw (`manifest.json`) or an export of `bylaw data convert` (`export.json`). The
number of rows must be the one that bylaw recorded, in all three readers; the columns must have the types
that the kind of row is documented with; the first row must be the same in all three. Exits 1 with the
first difference.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import datasets  # noqa: E402
import polars  # noqa: E402
import pyarrow  # noqa: E402
import pyarrow.ipc  # noqa: E402
import pyarrow.json  # noqa: E402
import pyarrow.parquet  # noqa: E402

MESSAGES = "list<item: struct<role: string not null, content: string not null> not null>"
TURNS = "list<item: struct<from: string not null, value: string not null> not null>"
TURN = "struct<from: string not null, value: string not null>"

# Columns that a tool reads, and ours that stay beside them: name -> Arrow type.
OURS = {
    "id": "string",
    "bylaw_id": "string",
    "weight": "float",
    "p_chosen": "float",
    "p_raw": "float",
    "log_odds": "float",
    "margin": "float",
    "source": "string",
    "label": "bool",
    "kto_tag": "bool",
    "text": "string",
    "prefix": "string",
    "initial": "string",
    "final": "string",
    "chosen_tokens": "uint32",
    "prompt": MESSAGES,
    "messages": MESSAGES,
    "conversations": TURNS,
}
# What each tool must find, by kind of row.
READ = {
    ("trl", "demonstrations"): {"prompt": MESSAGES, "completion": MESSAGES},
    ("trl", "revisions"): {"prompt": MESSAGES, "completion": MESSAGES},
    ("trl", "preferences"): {"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES},
    ("trl", "unpaired"): {"prompt": MESSAGES, "completion": MESSAGES, "label": "bool"},
    ("trl", "prompts"): {"prompt": MESSAGES},
    ("alignment-handbook", "demonstrations"): {"messages": MESSAGES},
    ("alignment-handbook", "revisions"): {"messages": MESSAGES},
    ("alignment-handbook", "preferences"): {"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES},
    ("openrlhf", "demonstrations"): {"prompt": MESSAGES, "completion": MESSAGES},
    ("openrlhf", "revisions"): {"prompt": MESSAGES, "completion": MESSAGES},
    ("openrlhf", "preferences"): {"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES},
    ("openrlhf", "prompts"): {"prompt": MESSAGES},
    ("axolotl", "demonstrations"): {"messages": MESSAGES},
    ("axolotl", "revisions"): {"messages": MESSAGES},
    ("axolotl", "preferences"): {"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES},
    ("llama-factory", "demonstrations"): {"conversations": TURNS},
    ("llama-factory", "revisions"): {"conversations": TURNS},
    ("llama-factory", "preferences"): {"conversations": TURNS, "chosen": TURN, "rejected": TURN},
    ("llama-factory", "unpaired"): {"conversations": TURNS, "kto_tag": "bool"},
}


def fail(directory, message):
    sys.exit(f"{directory}: {message}")


def same(left, right):
    """Equal, with numbers at the precision of f32: JSON holds them in decimal digits."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) or isinstance(right, float):
        return abs(left - right) <= 1e-6 * max(1.0, abs(left))
    return left == right


def record_of(directory):
    """What bylaw says is there: format, kind, rows, files."""
    export = directory / "export.json"
    if export.exists():
        record = json.loads(export.read_text())
        return record["request"]["format"], record["kind"], record["rows"], record["files"]
    manifest = json.loads((directory / "manifest.json").read_text())
    return "arrow", manifest["kind"], manifest["rows"], manifest["shards"]


def with_pyarrow(layout, paths):
    if layout == "parquet":
        return pyarrow.parquet.ParquetDataset(paths).read()
    if layout == "jsonl":
        return pyarrow.concat_tables([pyarrow.json.read_json(path) for path in paths])
    return pyarrow.concat_tables([pyarrow.ipc.open_file(path).read_all() for path in paths])


def with_polars(layout, paths):
    if layout == "parquet":
        return polars.read_parquet(paths)
    if layout == "jsonl":
        return polars.concat([polars.read_ndjson(path, infer_schema_length=None) for path in paths])
    return polars.concat([polars.read_ipc(path) for path in paths])


def with_datasets(format_name, directory, paths, cache):
    if format_name == "arrow":
        return datasets.load_dataset("arrow", data_files=paths, split="train", cache_dir=cache)
    # As it comes: the directory, and nothing said about what is in it.
    whole = datasets.load_dataset(str(directory), cache_dir=cache)
    if list(whole) != ["train"]:
        fail(directory, f"datasets found the splits {list(whole)}, expected train alone")
    inner = datasets.load_dataset(str(directory / "data"), split="train", cache_dir=cache)
    if inner.num_rows != whole["train"].num_rows:
        fail(directory, "datasets sees other rows in data/ than in the directory")
    return whole["train"]


def check_types(directory, format_name, kind, schema):
    # Plain texts, instead of conversations, have the one column `text` in every format for tools.
    wanted = {"text": "string"} if "text" in schema.names else dict(READ.get((format_name, kind), {}))
    for name in schema.names:
        if name in OURS and name not in wanted:
            wanted[name] = OURS[name]
    for name, expected in wanted.items():
        if name not in schema.names:
            fail(directory, f"the column {name} is missing; found {', '.join(schema.names)}")
        found = str(schema.field(name).type)
        if found != expected:
            fail(directory, f"the column {name} is {found}, expected {expected}")


def check(directory, cache):
    format_name, kind, rows, files = record_of(directory)
    paths = [str(directory / file["file"]) for file in files]
    layout = {"arrow": "arrow", "jsonl": "jsonl"}.get(format_name, "parquet")
    table = with_pyarrow(layout, paths)
    frame = with_polars(layout, paths)
    dataset = with_datasets(format_name, directory, paths, cache)
    counts = {"pyarrow": table.num_rows, "polars": frame.height, "datasets": dataset.num_rows}
    if set(counts.values()) != {rows}:
        fail(directory, f"bylaw wrote {rows} rows, but the readers found {counts}")
    if layout != "jsonl":
        check_types(directory, format_name, kind, table.schema)
        if dataset.features.keys() != set(table.column_names):
            fail(directory, f"datasets sees the columns {list(dataset.features)}, pyarrow {table.column_names}")
    first = {
        "pyarrow": table.slice(0, 1).to_pylist()[0],
        "polars": frame.row(0, named=True),
        "datasets": dataset[0],
    }
    for reader, row in first.items():
        if not same(row, first["pyarrow"]):
            fail(directory, f"the first row differs: {reader} has {row}, pyarrow {first['pyarrow']}")
    print(f"{directory.name}: {rows} {kind} for {format_name}, the same in pyarrow, polars and datasets")


def main():
    directories = [Path(name) for name in sys.argv[1:]]
    if not directories:
        sys.exit(__doc__)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        for directory in directories:
            check(directory, cache)
    print(f"{len(directories)} directories open in pyarrow {pyarrow.__version__}, polars {polars.__version__} and "
          f"datasets {datasets.__version__}")


if __name__ == "__main__":
    main()
