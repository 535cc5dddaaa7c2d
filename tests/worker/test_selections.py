"""Runs of some rows of an input: the first, or a sample of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from jobs.dataset import verify
from jobs.producer import enqueue_run, resume_run
from jobs.retry import retry_errors
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import MODEL, DoubleEngine, echo, write_prompts
from vllm_mlx.errors import InvalidRequestError, MediaError
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingParams


def rows_of(out: Path | str) -> list[tuple[int, str, str]]:
    table = pyarrow.dataset.dataset(f"{out}/data", format="parquet").to_table()
    return [(row["row"], row["id"], row["text"]) for row in table.to_pylist()]


def test_the_first_rows_and_what_is_behind_them_is_not_looked_at(bench: Bench) -> None:
    prompts = write_prompts(bench.folder / "p.jsonl", 4)
    with prompts.open("a") as file:
        file.write("no JSON\n")
    words = ["enqueue", prompts, "--model", MODEL, "--out", bench.folder / "out"]
    told = cli(*words, "--limit", 3, "--shard-size", 2, "-u", bench.url)
    assert told.exit_code == 0, told.stderr

    bench.burst(DoubleEngine())

    assert rows_of(bench.folder / "out") == [(n, f"r{n}", f"echo prompt {n}") for n in range(3)]
    assert verify(bench.folder / "out").complete


def test_a_sample_keeps_order_positions_and_ids(bench: Bench) -> None:
    prompts = bench.folder / "p.jsonl"
    lines = [{"prompt": f"prompt {n}"} for n in range(50)]  # whose ids are their positions
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options: dict[str, Any] = {"model": MODEL, "out": bench.folder / "out", "shard_size": 3}
    spec = enqueue_run(bench.redis, prompts, **options, sample=8, limit=40).spec
    other = {**options, "out": bench.folder / "other"}
    enqueue_run(bench.redis, prompts, **other, sample=8, limit=40, sample_seed=1)
    again = {**options, "out": bench.folder / "again"}
    enqueue_run(
        bench.redis, prompts, **again, sample=8, limit=40, sampling=SamplingParams.of(seed=1)
    )

    def say(prompt: Any) -> GenerationOutput:
        if f"prompt {drawn[1]}" == prompt:
            raise MediaError("no file")
        return echo(prompt)

    assert spec.selection is not None
    drawn = spec.selection.drawn(40)
    bench.burst(DoubleEngine(say=say))

    found = rows_of(spec.out)
    assert [row for row, _, _ in found] == drawn
    assert len(set(drawn)) == 8
    assert max(drawn) < 40
    assert all(id == str(row) and text in ("", f"echo prompt {row}") for row, id, text in found)
    assert verify(Path(spec.out)).problems == []
    samples = [[row for row, *_ in rows_of(bench.folder / out)] for out in ("other", "again")]
    assert samples[0] == samples[1] != drawn

    # Retry and resume know it.
    assert retry_errors(bench.redis, spec.run_id)[0] == 1
    bench.burst(DoubleEngine())
    assert verify(Path(spec.out)).ok == 8
    part = Path(spec.out) / "data" / "train-00001-of-00003.parquet"
    part.unlink()
    problems = " ".join(verify(Path(spec.out)).problems)
    assert f"rows missing: 3 ({', '.join(map(str, drawn[3:6]))})" in problems
    assert resume_run(bench.redis, spec.run_id).shards == 1
    bench.burst(DoubleEngine())
    assert verify(Path(spec.out)).complete

    # And a row that was not drawn is none of its.
    table = pq.read_table(part)
    stranger = next(row for row in range(50) if row not in drawn)
    rows = pa.array([stranger, *drawn[4:6]], pa.int64())
    pq.write_table(table.set_column(table.schema.get_field_index("row"), "row", rows), part)
    assert f"rows out of range: 1 ({stranger})" in verify(Path(spec.out)).problems


def test_a_selection_is_part_of_what_a_run_is(bench: Bench) -> None:
    specs = [
        bench.enqueue(rows=9, shard_size=3, say=f"s{n}", out=bench.folder / f"o{n}", **options)
        for n, options in enumerate([{}, {"limit": 4}, {"sample": 4}])
    ]
    assert [spec.rows for spec in specs] == [9, 4, 4]
    taken = cli(
        *("enqueue", specs[0].input.path, "--model", MODEL, "--out", specs[0].out),
        *("--shard-size", 3, "--limit", 4, "--resume", "-u", bench.url),
    )
    assert taken.exit_code != 0


@pytest.mark.parametrize(
    "wrong", [{"limit": 0}, {"sample": -1}, {"sample_seed": 3}, {"limit": "many"}]
)
def test_what_can_not_be_selected_is_refused(bench: Bench, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(wrong))):
        bench.enqueue(rows=2, shard_size=2, **wrong)


def test_a_sample_of_media_files(bench: Bench) -> None:
    for name in "abcdef":
        (bench.folder / f"{name}.png").write_bytes(b"")
    options: dict[str, Any] = {"images": bench.folder, "prompt": "What?", "model": "m@0123456789ab"}
    spec = enqueue_run(bench.redis, **options, out=bench.folder / "out", sample=2).spec
    assert (spec.rows, spec.drawn_from) == (2, 6)
    assert resume_run(bench.redis, spec.run_id).shards == 0
