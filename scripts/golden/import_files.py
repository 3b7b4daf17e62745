"""Makes tests/golden/import/: files of rows by pyarrow, polars and Hugging Face datasets.

    python3 -m venv ../venv-import && ../venv-import/bin/pip install -r scripts/golden/requirements-import.txt
    ../venv-import/bin/python scripts/golden/import_files.py

    rows.json            the rows that every other file but types.* and wide.parquet holds, as JSON
    pyarrow-*.parquet    each compression of Parquet; pyarrow-groups.parquet has a row group for each row
    pyarrow.arrow        the IPC file format; pyarrow-{lz4,zstd}.arrow compressed; pyarrow-stream.arrow the stream
    polars.parquet, polars.arrow, polars-zstd.arrow
    saved/               Dataset.save_to_disk; datasets.parquet, datasets.jsonl, datasets.csv its exports
    types.arrow          a column of every type that is neither text nor number, in two rows
    types.parquet        those of them that Parquet has
    types.json           the objects that the rows of types.* are read as; `arrow_only` is added for types.arrow
    wide.parquet         a pair with an image, a class label and structs with nulls, by datasets
"""

import datetime
import decimal
import json
import shutil
from pathlib import Path

import datasets
import polars
import pyarrow
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "import"

ROWS = [
    {
        "prompt": [{"role": "user", "content": "What is a law?"}],
        "chosen": [{"role": "assistant", "content": "A rule that binds."}],
        "rejected": [{"role": "assistant", "content": "No idea."}],
    },
    {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße, 世界?\n\t\"🙂\""}],
        "chosen": [{"role": "assistant", "content": ""}],
        "rejected": [{"role": "assistant", "content": "x" * 300}],
    },
    {
        "prompt": [{"role": "user", "content": "third"}],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    },
]


def write_arrow(table, name, stream=False, compression=None):
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    new = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with new(str(GOLDEN / name), table.schema, options=options) as writer:
        # Two batches, so that a reader has to go on after the first.
        for batch in table.to_batches(max_chunksize=2):
            writer.write_batch(batch)


def rows():
    (GOLDEN / "rows.json").write_text(json.dumps(ROWS, indent=1, ensure_ascii=False) + "\n")
    table = pyarrow.Table.from_pylist(ROWS)
    for compression in ["none", "snappy", "gzip", "zstd", "brotli", "lz4"]:
        pyarrow.parquet.write_table(table, GOLDEN / f"pyarrow-{compression}.parquet", compression=compression)
    pyarrow.parquet.write_table(table, GOLDEN / "pyarrow-groups.parquet", row_group_size=1)
    write_arrow(table, "pyarrow.arrow")
    write_arrow(table, "pyarrow-lz4.arrow", compression="lz4")
    write_arrow(table, "pyarrow-zstd.arrow", compression="zstd")
    write_arrow(table, "pyarrow-stream.arrow", stream=True)
    pyarrow.feather.write_feather(table, str(GOLDEN / "pyarrow.feather"))

    frame = polars.DataFrame(ROWS)
    frame.write_parquet(GOLDEN / "polars.parquet")
    frame.write_ipc(GOLDEN / "polars.arrow")
    frame.write_ipc(GOLDEN / "polars-zstd.arrow", compression="zstd")

    dataset = datasets.Dataset.from_list(ROWS)
    dataset.save_to_disk(GOLDEN / "saved")
    dataset.to_parquet(GOLDEN / "datasets.parquet")
    dataset.to_json(GOLDEN / "datasets.jsonl")
    texts = [
        {"prompt": row["prompt"][-1]["content"], "chosen": row["chosen"][0]["content"], "rejected": row["rejected"][0]["content"]}
        for row in ROWS
    ]
    datasets.Dataset.from_list(texts).to_csv(GOLDEN / "datasets.csv", index=False)


def types():
    utc = datetime.timezone.utc
    moment = datetime.datetime(2024, 2, 29, 12, 30, 15, 500000)
    columns = {
        "null": (pyarrow.array([None, None], pyarrow.null()), [None, None]),
        "bool": (pyarrow.array([True, None]), [True, None]),
        "int8": (pyarrow.array([-128, None], pyarrow.int8()), [-128, None]),
        "uint64": (pyarrow.array([2**64 - 1, 0], pyarrow.uint64()), [2**64 - 1, 0]),
        "half": (pyarrow.array([1.5, -0.25], pyarrow.float16()), [1.5, -0.25]),
        "double": (pyarrow.array([0.1, float("nan")]), [0.1, "NaN"]),
        "float": (pyarrow.array([float("inf"), float("-inf")], pyarrow.float32()), ["inf", "-inf"]),
        "large_string": (pyarrow.array(["é", None], pyarrow.large_string()), ["é", None]),
        "binary": (pyarrow.array([b"text", b"\xff\xd8\xff"]), ["text", {"bytes": 3}]),
        "large_binary": (pyarrow.array([b"", None], pyarrow.large_binary()), ["", None]),
        "fixed_binary": (pyarrow.array([b"ab", b"\xff\x00"], pyarrow.binary(2)), ["ab", {"bytes": 2}]),
        "dictionary": (pyarrow.array(["x", None]).dictionary_encode(), ["x", None]),
        "timestamp": (pyarrow.array([moment, None], pyarrow.timestamp("ms")), ["2024-02-29T12:30:15.500", None]),
        "timestamp_utc": (
            pyarrow.array([moment.replace(tzinfo=utc), None], pyarrow.timestamp("us", "UTC")),
            ["2024-02-29T12:30:15.500Z", None],
        ),
        "date": (pyarrow.array([datetime.date(2024, 2, 29), None]), ["2024-02-29", None]),
        "time": (pyarrow.array([datetime.time(1, 2, 3), None]), ["01:02:03", None]),
        "decimal": (pyarrow.array([decimal.Decimal("12.50"), None]), ["12.50", None]),
        "list": (pyarrow.array([[1, None], None]), [[1, None], None]),
        "empty_lists": (pyarrow.array([[], [[]]], pyarrow.list_(pyarrow.list_(pyarrow.int64()))), [[], [[]]]),
        "large_list": (pyarrow.array([["a"], []], pyarrow.large_list(pyarrow.string())), [["a"], []]),
        "fixed_list": (pyarrow.array([[1, 2], [3, 4]], pyarrow.list_(pyarrow.int32(), 2)), [[1, 2], [3, 4]]),
        "map": (
            pyarrow.array([[("k", 1)], None], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
            [{"k": 1}, None],
        ),
        "struct": (
            pyarrow.array([{"a": 1, "b": {"c": ["d"]}}, {"a": None, "b": None}]),
            [{"a": 1, "b": {"c": ["d"]}}, {"a": None, "b": None}],
        ),
    }
    arrow_only = {
        "string_view": (pyarrow.array(["short", "longer than twelve bytes"], pyarrow.string_view()), ["short", "longer than twelve bytes"]),
        "binary_view": (pyarrow.array([b"v", None], pyarrow.binary_view()), ["v", None]),
        "list_view": (pyarrow.array([[1, 2], []], pyarrow.list_view(pyarrow.int64())), [[1, 2], []]),
        "run_end": (pyarrow.RunEndEncodedArray.from_arrays([2], ["same"]), ["same", "same"]),
    }

    def objects(columns):
        return [{name: values[row] for name, (_, values) in columns.items()} for row in range(2)]

    both = columns | arrow_only
    write_arrow(pyarrow.table({name: array for name, (array, _) in both.items()}), "types.arrow")
    table = pyarrow.table({name: array for name, (array, _) in columns.items()})
    pyarrow.parquet.write_table(table, GOLDEN / "types.parquet")
    expected = {"rows": objects(columns), "arrow_only": objects(arrow_only)}
    (GOLDEN / "types.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


def wide():
    features = datasets.Features(
        {
            "prompt": datasets.Value("large_string"),
            "chosen": datasets.Value("string"),
            "rejected": datasets.Value("string"),
            "image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "topic": datasets.ClassLabel(names=["a", "b"]),
            "meta": {"when": datasets.Value("timestamp[s]"), "tags": datasets.List(datasets.Value("string"))},
        }
    )
    row = {
        "prompt": "q",
        "chosen": "yes",
        "rejected": "no",
        "image": {"bytes": bytes(range(256)), "path": None},
        "topic": 1,
        "meta": {"when": None, "tags": ["t"]},
    }
    datasets.Dataset.from_list([row], features=features).to_parquet(GOLDEN / "wide.parquet")


if __name__ == "__main__":
    datasets.disable_progress_bars()
    shutil.rmtree(GOLDEN, ignore_errors=True)
    GOLDEN.mkdir(parents=True)
    rows()
    types()
    wide()
    for path in sorted(path for path in GOLDEN.rglob("*") if path.is_file()):
        print(f"{path.stat().st_size:8}  {path.relative_to(GOLDEN)}")
