"""Datasets on a real disk, read back by everything our users read them with."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from jobs.dataset import Dataset, dataset_names, schema
from jobs.errors import DatasetError
from jobs.result_row import RESULT_COLUMNS, ResultRow
from vllm_mlx.outputs import GenerationOutput, MediaInfo, TokenLogprob

COLUMNS = {"prompt": "string", "text": "string", "meta": "json", "score": "double", "n": "int64"}

# Exact in 32 bits.
LOGPROBS = (
    TokenLogprob(7, "答", -0.5, (TokenLogprob(7, "答", -0.5), TokenLogprob(9, "\ufffd", -1.25))),
    TokenLogprob(2, "</s>", 0.0),
)


MEDIA = (
    MediaInfo("image", "0a1b", 640, 480),
    MediaInfo("video", "2c3d", 1920, 1080, 4.5, (0.0, 1.5, 3.0), truncated=True),
)


def manifest(rows: int, shards: int, **changes: Any) -> dict[str, Any]:
    return {
        "run_id": "run-0123456789ab",
        "model": "mlx-community/Qwen3-0.6B-4bit",
        "rows": rows,
        "shards": shards,
        "shard_size": -(-rows // shards),
        "columns": COLUMNS,
        "sampling": {"max_tokens": 64, "temperature": 0.7, "stop": ["|`\n"], "seed": None},
        "created_at": "2026-11-22T10:00:00+00:00",
        "versions": {"mlx-batch": "0.1.0"},
    } | changes


def row(position: int, text: str = "hello", **changes: Any) -> ResultRow:
    output = GenerationOutput(text, 5, 7, "stop", "mlx-community/Qwen3-0.6B-4bit", latency_s=0.5)
    fields: dict[str, Any] = {"id": f"row-{position}", "row": position, "output": output}
    return ResultRow(**fields | changes)


def failed(position: int) -> ResultRow:
    return row(position, output=GenerationOutput.from_error(ValueError("no prompt"), "some-model"))


def prepared(root: Path, rows: int, shards: int, **changes: Any) -> Dataset:
    dataset = Dataset(root)
    dataset.prepare(manifest(rows, shards, **changes))
    return dataset


def leftovers(root: Path) -> list[Path]:
    return list((root / "_job" / "tmp").iterdir())


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """Ten rows in four parts: full, all in error with every optional column null, one row, two.

    One row has log-probabilities, one has images; in the other parts these columns are null
    throughout.
    """
    root = tmp_path / "out"
    dataset = prepared(root, rows=10, shards=4)
    own = {
        "prompt": "Grüße, 你好 \0 🙂",
        "text": "own text",
        "meta": '{"a": [1]}',
        "score": 0.5,
        "n": 7,
    }
    dataset.write_part(0, [row(i, f"答案 🎉 {i}\n\t", columns=own) for i in (3, 0, 2, 1)])
    dataset.write_part(1, [failed(i) for i in (4, 5, 6)])
    seen = replace(row(7, "").output, media=MEDIA)
    ended = datetime(2026, 11, 22, 10, 0, 1, 500)
    dataset.write_part(2, [row(7, worker="host-1", attempts=3, output=seen, finished_at=ended)])
    told = replace(row(8).output, finish_reason="repetition", logprobs=LOGPROBS)
    dataset.write_part(3, [row(8, columns={"prompt": "only this"}, output=told), failed(9)])
    dataset.finalize()
    return root


def with_pyarrow(root: Path, _: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pyarrow.dataset.dataset(root / "data").to_table().to_pylist()
    return rows


def with_polars(root: Path, _: Path) -> list[dict[str, Any]]:
    return pl.scan_parquet(root / "data" / "*.parquet").collect().to_dicts()


def with_polars_folder(root: Path, _: Path) -> list[dict[str, Any]]:
    return pl.scan_parquet(root / "data").collect().to_dicts()


def with_duckdb(root: Path, _: Path) -> list[dict[str, Any]]:
    found = duckdb.read_parquet(f"{root}/**/*.parquet").order("row")
    return [dict(zip(found.columns, values, strict=True)) for values in found.fetchall()]


def with_datasets_folder(root: Path, cache: Path) -> list[dict[str, Any]]:
    from datasets import load_dataset  # type: ignore[import-untyped]

    return list(load_dataset(str(root), split="train", cache_dir=str(cache)))


def with_datasets_glob(root: Path, cache: Path) -> list[dict[str, Any]]:
    from datasets import load_dataset

    files = str(root / "data" / "*.parquet")
    return list(load_dataset("parquet", data_files=files, split="train", cache_dir=str(cache)))


@pytest.mark.parametrize(
    "read",
    [
        with_pyarrow,
        with_polars,
        with_polars_folder,
        with_duckdb,
        with_datasets_folder,
        with_datasets_glob,
    ],
)
def test_every_reader_sees_the_same_rows(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[Path, Path], list[dict[str, Any]]],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    parts = sorted((finished / "data").iterdir())
    expected = pa.concat_tables(pq.read_table(part) for part in parts).to_pylist()

    rows = read(finished, tmp_path / "cache")

    assert rows == expected
    assert [row["row"] for row in rows] == list(range(10))
    assert rows[3]["text"] == "答案 🎉 3\n\t"
    assert rows[3]["prompt"] == "Grüße, 你好 \0 🙂"
    assert rows[3]["input_text"] == "own text"
    assert rows[5]["finish_reason"] == "error"
    assert (rows[5]["error_type"], rows[5]["error"]) == ("ValueError", "no prompt")
    assert rows[7]["prompt"] is None
    assert rows[7]["attempts"] == 3
    assert rows[7]["logprobs"] is None
    assert rows[8]["finish_reason"] == "repetition"
    likeliest = {"token_id": 7, "token": "答", "logprob": -0.5}
    other = {"token_id": 9, "token": "\ufffd", "logprob": -1.25}
    assert rows[8]["logprobs"] == [
        {**likeliest, "top": [likeliest, other]},
        {"token_id": 2, "token": "</s>", "logprob": 0.0, "top": []},
    ]
    assert rows[8]["media"] is None
    nothing = {"duration_s": None, "timestamps": [], "truncated": False}
    clip = {"duration_s": 4.5, "timestamps": [0.0, 1.5, 3.0], "truncated": True}
    assert rows[7]["media"] == [
        {"kind": "image", "hash": "0a1b", "width": 640, "height": 480, **nothing},
        {"kind": "video", "hash": "2c3d", "width": 1920, "height": 1080, **clip},
    ]


def test_the_cards_own_instructions_work(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = (finished / "README.md").read_text()
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    loaded: dict[str, Any] = {}

    exec(code[0].replace("path/to/this/folder", str(finished)), loaded)

    counts = [len(loaded["table"]), len(loaded["frame"]), len(loaded["relation"].fetchall())]
    assert [*counts, len(loaded["dataset"])] == [10] * 4


def test_the_card_states_what_was_run(finished: Path) -> None:
    card = (finished / "README.md").read_text()

    assert "- Model: `mlx-community/Qwen3-0.6B-4bit`" in card
    assert "- Rows: 10: 6 ok, 4 error" in card
    assert "- Completion tokens: 42" in card
    assert "| `input_text` | string | from the input, where it is `text` |" in card
    assert "| `meta` | string (JSON) | from the input |" in card
    names = re.findall(r"^\| `(\w+)`", card, re.MULTILINE)
    assert names == schema(COLUMNS).names


def test_a_finished_folder_holds_these_files_and_no_others(finished: Path) -> None:
    files = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    parts = {f"data/train-0000{shard}-of-00004.parquet" for shard in range(4)}

    assert files == parts | {"_job/.gitignore", "_job/manifest.json", "README.md", "_SUCCESS"}
    assert (finished / "_SUCCESS").read_bytes() == b""
    assert json.loads((finished / "_job" / "manifest.json").read_text())["result"] == {
        "rows_in": 10,
        "ok": 6,
        "error": 4,
        "prompt_tokens": 30,
        "completion_tokens": 42,
        "incomplete": 0,
        "duplicates": 0,
    }


def test_a_row_is_the_dataclass() -> None:
    names = {field.name for field in RESULT_COLUMNS}
    output = {field.name for field in fields(GenerationOutput)}

    assert names == output | {
        "id",
        "row",
        "sample_index",
        "attempts",
        "worker",
        "finished_at",
        "duplicate_of",
        "parsed",
    }
    assert row(1).cells().keys() == names


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (["prompt", "messages"], ["prompt", "messages"]),
        (["text"], ["input_text"]),
        (["text", "input_text"], ["input_input_text", "input_text"]),
        (["input_text", "text"], ["input_text", "input_input_text"]),
        (["Text", "ROW"], ["input_Text", "input_ROW"]),
        (["Prompt", "prompt"], ["Prompt", "input_prompt"]),
        (["\ud800"], ["\ufffd"]),
    ],
)
def test_input_columns_never_collide(columns: list[str], names: list[str]) -> None:
    assert list(dataset_names(dict.fromkeys(columns, "string")).values()) == names


def test_an_unknown_column_type_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"column 'when' is of no type: .*timestamp"):
        schema({"when": "timestamp"})


def test_preparing_again_changes_nothing(finished: Path) -> None:
    before = (finished / "_job" / "manifest.json").read_bytes()

    Dataset(finished).prepare(manifest(10, 4))

    assert (finished / "_job" / "manifest.json").read_bytes() == before
    assert (finished / "_SUCCESS").exists()


def test_another_run_may_not_have_the_folder(finished: Path) -> None:
    with pytest.raises(DatasetError, match=r"run-0123456789ab.*forget run-other.*another --out"):
        Dataset(finished).prepare(manifest(10, 4, run_id="run-other"))


@pytest.mark.parametrize("name", ["data/train.parquet", "README.md", "_SUCCESS"])
def test_foreign_files_are_neither_mixed_in_nor_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / name).write_bytes(b"precious")

    with pytest.raises(DatasetError, match=re.escape(name)):
        Dataset(tmp_path).prepare(manifest(10, 4))

    assert (tmp_path / name).read_bytes() == b"precious"
    assert not (tmp_path / "_job").exists()


def test_other_files_in_the_folder_are_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text("{}")

    prepared(tmp_path, rows=1, shards=1).write_part(0, [row(0)])

    assert Dataset(tmp_path).finalize().complete


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "can't be read"),
        (b"\xff", "can't be read"),
        (b"[1]", "no JSON object"),
        (b'{"run_id": "run-1", "rows": "9"}', "wrong type: model, rows, shards, columns"),
    ],
)
def test_a_corrupt_manifest_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "_job" / "manifest.json"
    path.parent.mkdir()
    path.write_bytes(content)

    with pytest.raises(DatasetError, match=f"{re.escape(str(path))}.*{message}"):
        Dataset(tmp_path).manifest()


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"manifest\.json is missing"):
        Dataset(tmp_path).manifest()


PREPARE = """
import sys, time
from pathlib import Path
from jobs.dataset import Dataset
from jobs.errors import DatasetError
root, manifest = Path(sys.argv[1]), {manifest!r}
manifest["run_id"] = sys.argv[2]
(root.parent / f"ready-{{sys.argv[3]}}").touch()
while not (root.parent / "go").exists():
    pass
try:
    Dataset(root).prepare(manifest)
except DatasetError as error:
    sys.exit(3 if "holds run" in str(error) else repr(error))
"""


def race(root: Path, run_ids: Sequence[str]) -> list[int]:
    code = PREPARE.format(manifest=manifest(10, 4))
    commands = [
        [sys.executable, "-c", code, str(root), run_id, str(number)]
        for number, run_id in enumerate(run_ids)
    ]
    racers = [subprocess.Popen(command) for command in commands]
    while len(list(root.parent.glob("ready-*"))) < len(racers):
        assert all(racer.poll() is None for racer in racers)
        time.sleep(0.01)
    (root.parent / "go").touch()
    return [racer.wait(timeout=60) for racer in racers]


def test_workers_of_one_run_may_prepare_at_once(tmp_path: Path) -> None:
    root = tmp_path / "out"

    assert race(root, ["run-1"] * 4) == [0] * 4
    assert Dataset(root).manifest()["run_id"] == "run-1"
    assert leftovers(root) == []


def test_of_two_runs_at_once_one_gets_the_folder(tmp_path: Path) -> None:
    assert sorted(race(tmp_path / "out", ["run-1", "run-2"])) == [0, 3]


def test_without_hard_links_the_manifest_is_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "link", link)

    assert prepared(tmp_path, rows=1, shards=1).manifest()["rows"] == 1


def test_a_part_holds_its_rows_in_input_order_with_the_one_schema(tmp_path: Path) -> None:
    rows = [row(1, sample_index=1), row(1), row(0, sample_index=1), row(0)]

    part = prepared(tmp_path, rows=4, shards=1, input_rows=2, samples=2).write_part(0, rows)

    table = pq.read_table(part)
    assert part == tmp_path / "data" / "train-00000-of-00001.parquet"
    assert table.schema.equals(schema(COLUMNS))
    assert table["row"].to_pylist() == [0, 0, 1, 1]
    assert table["sample_index"].to_pylist() == [0, 1, 0, 1]
    assert pq.ParquetFile(part).metadata.row_group(0).column(0).compression == "ZSTD"
    assert Dataset(tmp_path).finalize().complete


def test_a_shard_written_twice_is_one_file(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, rows=1, shards=1)

    parts = {dataset.write_part(0, [row(0, text)]) for text in ("first", "second")}

    assert pq.read_table(parts.pop())["text"].to_pylist() == ["second"]
    assert not parts
    assert leftovers(tmp_path) == []


def test_of_a_part_and_of_rows_that_were_not_whole_the_newer_count(tmp_path: Path) -> None:
    assert Dataset(tmp_path).rows_files == []
    dataset = prepared(tmp_path, rows=6, shards=3)
    part = dataset.write_part(0, [row(0), row(1)])
    for shard in (0, 2):
        dataset.write_unfinished(shard, [row(2 * shard)])
    early, late = (dataset.layout.unfinished_part(shard, 3) for shard in (0, 2))
    os.utime(part, ns=(0, early.stat().st_mtime_ns + 1))
    assert dataset.rows_files == [part, late]
    os.utime(part, ns=(0, early.stat().st_mtime_ns - 1))  # its rows in error are tried again
    assert dataset.rows_files == [early, late]
    dataset.forget_unfinished()
    assert dataset.rows_files == [part]


def test_parts_are_readable_by_whom_the_umask_lets(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()

    part = prepared(tmp_path / "out", rows=1, shards=1).write_part(0, [row(0)])

    assert part.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("shard", [-1, 1])
def test_only_the_runs_own_shards_are_written(tmp_path: Path, shard: int) -> None:
    with pytest.raises(ValueError, match=f"shard {shard} is not one of this run's 1"):
        prepared(tmp_path, rows=1, shards=1).write_part(shard, [row(0)])


def test_an_empty_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows"):
        prepared(tmp_path, rows=1, shards=1).write_part(0, [])


def test_half_a_surrogate_pair_does_not_cost_the_part(tmp_path: Path) -> None:
    said = replace(row(0, "a\ud83db").output, logprobs=(TokenLogprob(1, "\ud83d", -0.5),))
    rows = [row(0, output=said, columns={"prompt": "\ud83d\ude42"})]

    part = prepared(tmp_path, rows=1, shards=1).write_part(0, rows)

    (cells,) = pq.read_table(part).to_pylist()
    assert (cells["text"], cells["prompt"]) == ("a\ufffdb", "🙂")
    assert cells["logprobs"][0]["token"] == "\ufffd"


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"n": 2**63}, "row 'row-1': its value of column 'n' is no int64"),
        ({"n": "seven"}, "row 'row-1': its value of column 'n' is no int64"),
        ({"prompt": ["a"]}, "row 'row-1': its value of column 'prompt' is no string"),
    ],
)
def test_a_value_that_does_not_fit_costs_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, columns: Mapping[str, Any], words: str
) -> None:
    good = {"prompt": "p", "n": 7}
    rows = [row(0, columns=good), row(1, columns=good | columns), row(2, columns=good)]

    part = prepared(tmp_path, rows=3, shards=1).write_part(0, rows)

    cells = pq.read_table(part).to_pylist()
    assert [{name: each[name] for name in good} for each in cells] == [
        good,
        good | dict.fromkeys(columns),
        good,
    ]
    assert cells[1]["text"] == row(1).output.text
    [said] = caplog.messages
    assert words in said
    assert "null in the dataset" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": {"extra": 1}}, "'row-0' has columns the manifest lacks: extra"),
        ({"attempts": 2**40}, "row 'row-0': its value of column 'attempts' is no int32"),
    ],
)
def test_a_result_that_does_not_fit_is_named(
    tmp_path: Path, changes: Mapping[str, Any], message: str
) -> None:
    dataset = prepared(tmp_path, rows=1, shards=1)

    with pytest.raises(DatasetError, match=message):
        dataset.write_part(0, [replace(row(0), **changes)])

    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_said_and_leaves_the_old_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    dataset = prepared(tmp_path, rows=1, shards=1)
    part = dataset.write_part(0, [row(0)])
    before = part.read_bytes()
    monkeypatch.setattr(os, call, full)

    with pytest.raises(DatasetError, match=rf"{re.escape(str(part))}.*No space left on device"):
        dataset.write_part(0, [row(0, "again")])

    assert part.read_bytes() == before
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("refused", [False, True])
def test_on_macos_the_drive_itself_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    dataset = prepared(tmp_path, rows=1, shards=1)
    full_fsync, calls = 51, []  # <sys/fcntl.h> of macOS
    fsync = os.fsync

    def flush(descriptor: int, command: int) -> int:
        calls.append((command, os.fstat(descriptor).st_ino))
        if refused:
            raise OSError(errno.ENOTSUP, "Operation not supported")
        return 0

    def sync(descriptor: int) -> None:
        calls.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", full_fsync, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", flush)
    monkeypatch.setattr(os, "fsync", sync)
    part = dataset.write_part(0, [row(0)])

    # The file, and then the folder that it was renamed into.
    assert calls == [
        (how, path.stat().st_ino) for path in (part, part.parent) for how in ("fsync", full_fsync)
    ]


@pytest.mark.parametrize("blocked", ["", "_job", "data"])
def test_a_file_in_place_of_a_folder_is_said(tmp_path: Path, blocked: str) -> None:
    root = tmp_path / "out"
    (root / blocked).parent.mkdir(exist_ok=True)
    (root / blocked).write_text("in the way")

    with pytest.raises(DatasetError, match=re.escape(str(root))):
        Dataset(root).prepare(manifest(1, 1))


def test_an_incomplete_dataset_is_not_marked_finished(finished: Path) -> None:
    (finished / "data" / "train-00001-of-00004.parquet").unlink()

    with pytest.raises(DatasetError, match=r"parts missing.*00001-of-00004.*rows missing: 3"):
        Dataset(finished).finalize()

    assert not (finished / "_SUCCESS").exists()


def test_finalizing_twice_is_fine(finished: Path) -> None:
    files = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}

    assert Dataset(finished).finalize().ok == 6

    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == files


def test_two_may_finalize_at_once(finished: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: Dataset(finished).finalize(), range(12)))

    assert all(verification.complete for verification in found)
    assert (finished / "_SUCCESS").exists()
    assert leftovers(finished) == []


WRITE = """
import os, signal, sys
from pathlib import Path
from jobs.dataset import Dataset
from jobs.result_row import ResultRow
from vllm_mlx.outputs import GenerationOutput
root, shards, die_at = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
dataset = Dataset(root)
dataset.prepare({manifest!r})
sync = os.fsync
for shard in range(shards):
    if shard == die_at:
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    dataset.write_part(shard, [
        ResultRow(f"row-{{i}}", i, GenerationOutput("some text " * 50, 1, 2, "stop"))
        for i in range(shard * 8, shard * 8 + 8)
    ])
    print(shard, flush=True)
"""


def writer(root: Path, shards: int, die_at: int = -1) -> subprocess.Popen[bytes]:
    code = WRITE.format(manifest=manifest(shards * 8, shards))
    command = [sys.executable, "-c", code, str(root), str(shards), str(die_at)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def test_a_writer_killed_before_the_rename_leaves_no_part(tmp_path: Path) -> None:
    killed = writer(tmp_path, shards=3, die_at=1)
    assert killed.communicate(timeout=60)[0] == b"0\n"
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["train-00000-of-00003.parquet"]
    assert len(leftovers(tmp_path)) == 1

    again = writer(tmp_path, shards=3)
    assert again.communicate(timeout=60)[0] == b"0\n1\n2\n"
    assert Dataset(tmp_path).finalize().ok == 24
    assert leftovers(tmp_path) == []


def test_a_writer_killed_anywhere_leaves_whole_parts_only(tmp_path: Path) -> None:
    moments = random.Random(7)
    for _ in range(4):
        process = writer(tmp_path, shards=1000)
        assert process.stdout
        assert process.stdout.readline() == b"0\n"
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        parts = list((tmp_path / "data").iterdir())
        assert [pq.read_table(part).num_rows for part in parts] == [8] * len(parts)


def test_the_cost_of_a_part(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    dataset = prepared(tmp_path, rows=128 * 20, shards=20)
    spent = []
    for shard in range(20):
        own = {"prompt": "What is " * 30, "n": shard}
        rows = [row(shard * 128 + i, "An answer. " * 40, columns=own) for i in range(128)]
        started = time.perf_counter()
        dataset.write_part(shard, rows)
        spent.append((time.perf_counter() - started) * 1000)
    record_property("ms_per_part_of_128_rows", round(statistics.median(spent), 2))
    print(f"\na part of 128 rows, on disk: {statistics.median(spent):.1f} ms")
