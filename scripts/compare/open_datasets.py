"""Opens a data set written by bylaw with pyarrow and with datasets, and compares what they see.

    open_datasets.py DIR

Reads DIR/data-*.arrow. Where DIR holds a state.json (the layout of `save_to_disk`), it is opened
with `datasets.load_from_disk` as well. Prints the features and the row counts; exits 1 if they, or
the rows, differ between the readers.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets  # noqa: E402
import pyarrow  # noqa: E402


def read_shard(path):
    """The shard's table and which of Arrow's two IPC formats it is in (datasets writes streams)."""
    with pyarrow.memory_map(str(path)) as source:
        try:
            return pyarrow.ipc.open_stream(source).read_all(), "stream"
        except pyarrow.ArrowInvalid:
            source.seek(0)
            return pyarrow.ipc.open_file(source).read_all(), "file"


def report(reader, features, rows):
    print(f"{reader}: {rows} rows")
    for name, feature in features.items():
        print(f"    {name}: {feature}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    shards = sorted(directory.glob("data-*.arrow"))
    if not shards:
        print(f"no data-*.arrow in {directory}")
        return 1

    tables = []
    for path in shards:
        table, layout = read_shard(path)
        print(f"{path.name}: {table.num_rows} rows, IPC {layout}")
        tables.append(table)
    if any(table.schema != tables[0].schema for table in tables):
        print("the shards' schemas differ")
        return 1
    table = pyarrow.concat_tables(tables)
    features = datasets.Features.from_arrow_schema(table.schema)
    report("pyarrow", features, table.num_rows)

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        files = [str(path.resolve()) for path in shards]
        opened = {
            "load_dataset": datasets.load_dataset(
                "arrow", data_files=files, split="train", cache_dir=cache
            )
        }
        if (directory / "state.json").exists():
            opened["load_from_disk"] = datasets.load_from_disk(str(directory))
        same = True
        expected = datasets.Dataset(table).to_list()
        for reader, dataset in opened.items():
            report(reader, dataset.features, dataset.num_rows)
            for what, agrees in (
                ("features", dataset.features == features),
                ("row count", dataset.num_rows == table.num_rows),
                ("rows", dataset.to_list() == expected),
            ):
                if not agrees:
                    print(f"{reader}: the {what} differ from pyarrow's")
                    same = False
    print("same" if same else "different")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
