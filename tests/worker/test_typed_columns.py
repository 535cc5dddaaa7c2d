"""Columns of a Parquet file come back from a run as they went in, whatever happens on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64encode
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from jobs.dataset import verify
from jobs.errors import InputFileError
from jobs.producer import enqueue_run, resume_run
from jobs.queue.run_jobs import open_queue
from jobs.retry import retry_errors
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.engines import MODEL, DoubleEngine, echo
from vllm_mlx.outputs import GenerationOutput

PART = pa.struct([("type", pa.string()), ("text", pa.string())])
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.list_(PART))])
COLUMNS: dict[str, pa.Array] = {
    "created": pa.array([1, 123456789, None], pa.int64()).cast(pa.timestamp("ns")),
    "zoned": pa.array([0, -1, None], pa.timestamp("us", "Asia/Tokyo")),
    "day": pa.array([date(2024, 2, 29), date(1, 1, 1), None]),
    "clock": pa.array([1, 2, None], pa.int64()).cast(pa.time64("ns")),
    "price": pa.array([Decimal("12345678901234567890.123456789"), Decimal(0), None]).cast(
        pa.decimal128(38, 9)
    ),
    "large": pa.array([2**64 - 1, 0, None], pa.uint64()),
    "tags": pa.array([["a", None], [], None]),
    "vector": pa.array([[0.1, 0.2], [float("nan"), 1.0], None], pa.list_(pa.float32(), 2)),
    "source": pa.array([{"page": 1, "of": ["x"]}, {"page": None, "of": []}, None]),
    "author": pa.array([{"born": date(1, 1, 1)}, None, {"born": None}]),
    "authors": pa.array([[{"price": Decimal("1.5")}, None], [], None]),
    "turns": pa.array(
        [[{"role": "user", "content": [{"type": "text", "text": "hi"}]}], [], None],
        pa.list_(MESSAGE),
    ),
    "blob": pa.array([b"\xff\x00", b"text", None]),
    "small": pa.array([1, -1, None], pa.int8()),
    "kind": pa.array(["a", "b", None]).dictionary_encode(),
    "nothing": pa.nulls(3),
    "metadata": pa.array(["train", "test", None]),
}
OTHERS = {  # that `datasets` does not know
    "counts": pa.array([[("k", 1), ("k", 2)], [], None], pa.map_(pa.string(), pa.int64())),
    "took": pa.array([1, 2, None], pa.duration("us")),
    "code": pa.array([b"\xff\xfe", b"ab", None], pa.binary(2)),
    "half": pa.array([1.5, 2.5, None], pa.float32()).cast(pa.float16()),
}


def enqueue(bench: Bench, columns: dict[str, pa.Array]) -> RunSpec:
    path = bench.folder / "in.parquet"
    pq.write_table(pa.table({"prompt": ["p0", "p1", "p2"], **columns}), path)
    out = bench.folder / "out"
    return enqueue_run(bench.redis, path, model=MODEL, out=out, shard_size=2).spec


def rows(spec: RunSpec) -> pa.Table:
    parts = sorted((Path(spec.out) / "data").glob("*.parquet"))
    return pa.concat_tables(map(pq.read_table, parts))


def check(spec: RunSpec, columns: dict[str, pa.Array]) -> None:
    assert verify(Path(spec.out)).complete
    found = rows(spec)
    for name, column in columns.items():
        wanted = column.dictionary_decode() if name == "kind" else column
        assert found[name].type == wanted.type
        # Compared as text, in which NaN is NaN.
        assert str(found[name].to_pylist()) == str(wanted.to_pylist())


def test_columns_keep_their_types_and_values(bench: Bench) -> None:
    spec = enqueue(bench, COLUMNS | OTHERS)
    bench.burst(DoubleEngine())
    check(spec, COLUMNS | OTHERS)


def test_they_do_when_a_part_is_made_again_and_a_row_retried(bench: Bench) -> None:
    def say(prompt: Any) -> GenerationOutput:
        if prompt == "p2":
            raise ValueError("not now")
        return echo(prompt)

    spec = enqueue(bench, COLUMNS | OTHERS)
    bench.burst(DoubleEngine(say=say))
    check(spec, COLUMNS | OTHERS)
    (Path(spec.out) / "data" / "train-00000-of-00002.parquet").unlink()
    assert resume_run(bench.redis, spec.run_id).shards == 1
    bench.burst(DoubleEngine())
    retried, _ = retry_errors(bench.redis, spec.run_id)
    assert retried == 1
    bench.burst(DoubleEngine())
    check(spec, COLUMNS | OTHERS)
    assert rows(spec)["finish_reason"].to_pylist() == ["stop"] * 3


def test_a_value_that_another_version_let_pass_costs_no_part(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    spec = enqueue(bench, COLUMNS)
    job = open_queue(bench.redis, spec.queue).fetch_job(spec.shard_id(0))
    assert job is not None
    spoilt = [{**row, "data": {**row["data"], "day": "10000-01-01"}} for row in job.kwargs["rows"]]
    job.kwargs = {**job.kwargs, "rows": [spoilt[0], job.kwargs["rows"][1]]}
    job.save()
    bench.burst(DoubleEngine())
    check(spec, COLUMNS | {"day": pa.array([None, date(1, 1, 1), None])})
    [said] = [each for each in caplog.messages if "null in the dataset" in each]
    assert said.startswith("row '0': its value of column 'day' is no date32[day]: '10000-01-01'")


def test_every_reader_takes_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(bench.folder / "cache"))
    spec = enqueue(bench, COLUMNS)
    bench.burst(DoubleEngine())
    files = f"{spec.out}/data/*.parquet"
    assert polars.read_parquet(files)["created"].dt.epoch("ns").to_list() == [1, 123456789, None]
    found = duckdb.sql(f"SELECT source.page, tags, day FROM '{files}' ORDER BY row").fetchall()
    assert found[0] == (1, ["a", None], date(2024, 2, 29))
    dataset = load_dataset("parquet", data_files=files, split="train")
    assert dataset[0]["turns"] == [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert dataset[1]["blob"] == b"text"


def test_a_chat_comes_back_ready_for_training(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its dataset is an input as the first one was."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(bench.folder / "cache"))
    user = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    chats = [
        {"messages": [{"role": "system", "content": "Be brief."}, user], "metadata": {"page": 1}},
        {"messages": [{"role": "user", "content": "ho", "name": "Ann"}], "metadata": {"page": 2}},
        {"messages": [user], "metadata": None, "rating": [0.5, None, 1], "huge": 2**70, "mixed": 1},
        {"messages": [user], "metadata": None, "rating": None, "huge": 1, "mixed": "one"},
    ]
    path = bench.folder / "in.jsonl"
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    spec = enqueue_run(bench.redis, path, model=MODEL, out=bench.folder / "out", shard_size=2).spec
    bench.burst(DoubleEngine())
    assert verify(Path(spec.out)).complete

    dataset = load_dataset("parquet", data_files=f"{spec.out}/data/*.parquet", split="train")
    system, first = dataset[0]["messages"]
    assert system["content"] == [{"type": "text", "text": "Be brief."}]
    assert (first["role"], first["content"], first["name"]) == (*user.values(), None)
    assert [row["metadata"] for row in dataset] == [{"page": 1}, {"page": 2}, None, None]
    assert dataset["rating"][2] == [0.5, None, 1.0]
    assert dataset["huge"][2:] == [str(2**70), "1"]
    assert dataset["mixed"][2:] == ["1", '"one"']

    again = bench.folder / "again.parquet"
    pq.write_table(rows(spec).select(["messages", "metadata"]), again)
    enqueue_run(bench.redis, again, model=MODEL, out=bench.folder / "second")
    engine = DoubleEngine()
    bench.burst(engine)
    texts = [[each["content"] for each in chat] for chat in engine.prompts]
    assert texts == [["Be brief.", "hi"], ["ho"], ["hi"], ["hi"]]


@pytest.mark.parametrize(
    "option", [{}, {"image_column": "photo", "prompt": "At {{ at }}: {{ t }}?"}]
)
def test_images_of_hugging_face_are_shown(bench: Bench, option: dict[str, str]) -> None:
    image = pa.array([{"bytes": b"\x89PNG" * 100, "path": "a.png"}])
    at = pa.array([1]).cast(pa.timestamp("ns", "UTC"))
    name = option.get("image_column", "image")
    path = bench.folder / "in.parquet"
    pq.write_table(pa.table({"t": [["x"]], "at": at, "prompt": ["?"], name: image}), path)
    spec = enqueue_run(
        bench.redis, path, model="some/model", out=bench.folder / "out", **option
    ).spec
    engine = DoubleEngine(say=lambda prompt: replace(echo(prompt), model="some/model"))
    bench.burst(engine, "some/model")
    [shown, said] = engine.prompts[0].messages[0]["content"]
    assert shown["image"] == "data:;base64," + b64encode(b"\x89PNG" * 100).decode()
    asked = 'At 1970-01-01 00:00:00.000000001Z: ["x"]?' if option else "?"
    assert said["text"] == asked
    [row] = rows(spec).to_pylist()
    assert (row[name], row["t"]) == ("a.png", ["x"])
    assert rows(spec)["at"].type == at.type


def test_a_template_prints_no_bytes(bench: Bench) -> None:
    path = bench.folder / "in.parquet"
    pq.write_table(pa.table({"raw": [b"text", b"\xff"]}), path)
    with pytest.raises(InputFileError, match=r"1 bad row of 2;.*\n.*row 1: prompt: .* bytes"):
        enqueue_run(bench.redis, path, model=MODEL, out=bench.folder / "o", prompt="{{ raw }}")


def test_nanoseconds_need_no_pandas(bench: Bench) -> None:
    path = bench.folder / "in.parquet"
    pq.write_table(pa.table({"prompt": ["p"], "at": COLUMNS["created"][1:2]}), path)
    code = (  # None in sys.modules is a module to pyarrow
        "import sys, types\n"
        "def find_spec(name, *_):\n"
        "    if name == 'pandas': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, types.SimpleNamespace(find_spec=find_spec))\n"
        "from jobs.sources import PromptFile\n"
        f"print([row.data['at'] for row in PromptFile.of({str(path)!r}).rows()])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "['1970-01-01 00:00:00.123456789']\n"
