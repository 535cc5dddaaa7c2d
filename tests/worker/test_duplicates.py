"""Rows that ask the same are answered once, in any shard, and verify as all others do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest

from jobs.dataset import verify
from jobs.ledger.keys import answers_key
from jobs.pause import continue_run, pause_run
from jobs.producer import enqueue_run, resume_run
from jobs.retry import retry_errors
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import MODEL, DoubleEngine
from vllm_mlx.errors import MediaError
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from worker.status.status import run_status

GREEDY = SamplingParams.of(temperature=0)


def enqueue(bench: Bench, rows: list[dict[str, Any]], **options: Any) -> RunSpec:
    path = bench.folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"model": MODEL, "out": bench.folder / "out", "shard_size": 2, "sampling": GREEDY}
    return enqueue_run(bench.redis, path, **given | options).spec


def ask(*prompts: str, **fields: Any) -> list[dict[str, Any]]:
    return [{"id": f"r{n}", "prompt": prompt, **fields} for n, prompt in enumerate(prompts)]


def column(spec: RunSpec, name: str) -> list[Any]:
    table = pyarrow.dataset.dataset(f"{spec.out}/data", format="parquet").to_table()
    return [row[name] for row in sorted(table.to_pylist(), key=lambda row: row["row"])]


def test_the_same_prompt_is_answered_once_across_shards(bench: Bench) -> None:
    spec = enqueue(bench, ask("a", "b", "a", "c", "a", "b", "a"))
    assert spec.duplicates == 4
    engine = DoubleEngine(max_num_seqs=1, held=True)
    worker = bench.worker(engine)
    while not run_status(bench.redis, spec.run_id).is_finished:
        bench.be_due(worker)
        worker.admit(wait=False)
        worker.settle()
        worker.tend()
        engine.answer(1)

    assert sorted(engine.prompts) == ["a", "b", "c"]
    assert column(spec, "text") == [f"echo {said}" for said in "abacaba"]
    assert column(spec, "duplicate_of") == [None, None, "r0", None, "r0", "r1", "r0"]
    found = verify(Path(spec.out))
    assert (found.complete, found.ok, found.duplicates) == (True, 7, 4)
    counts = run_status(bench.redis, spec.run_id).done
    assert (counts.rows, counts.duplicates) == (7, 4)
    own = [row for row in range(7) if column(spec, "duplicate_of")[row] is None]
    assert counts.completion_tokens == sum(column(spec, "completion_tokens")[row] for row in own)
    assert found.completion_tokens == counts.completion_tokens
    assert not bench.redis.exists(answers_key(spec.run_id))


def test_it_can_be_switched_off(bench: Bench) -> None:
    path = bench.folder / "p.txt"
    path.write_text("a\na\n")
    words = ["enqueue", path, "--model", MODEL, "--out", bench.folder / "out", "--temperature", 0]
    assert cli(*words, "--no-dedupe", "-u", bench.url).exit_code == 0
    engine = DoubleEngine()
    bench.burst(engine)
    assert engine.prompts == ["a", "a"]


DRAWN = SamplingParams.of(temperature=1)
IMAGE: dict[str, Any] = {"image": "cat.png"}


@pytest.mark.parametrize(
    ("one", "two", "sampling", "count"),
    [
        ({}, {"id": "x", "label": 1}, GREEDY, 1),
        ({}, {"temperature": 0.0}, GREEDY, 1),
        ({"seed": 1}, {"seed": 2}, GREEDY, 1),
        ({}, {"max_tokens": 9}, GREEDY, 0),
        ({}, {"temperature": 1}, GREEDY, 0),
        ({}, IMAGE, GREEDY, 0),
        (IMAGE, IMAGE, GREEDY, 1),
        (IMAGE, {"image": "dog.png"}, GREEDY, 0),
        ({"video": "a.mp4"}, {"video": "a.mp4", "video_max_frames": 2}, GREEDY, 0),
        ({}, {}, DRAWN, 0),
        ({}, {}, SamplingParams.of(temperature=1, seed=1), 0),  # each row has a seed of its own
        ({"seed": 1}, {"seed": 1}, DRAWN, 1),
        ({"seed": 1}, {"seed": 2}, DRAWN, 0),
        ({"seed": 1, "n": 2}, {"seed": 1, "n": 2}, DRAWN, 1),
        ({"seed": 1, "n": 2}, {"seed": 1, "n": 3}, DRAWN, 0),
    ],
)
def test_what_is_the_same(
    bench: Bench, one: dict[str, Any], two: dict[str, Any], sampling: SamplingParams, count: int
) -> None:
    rows = [{"prompt": "a", **one}, {"prompt": "a", **two}]
    spec = enqueue(bench, rows, sampling=sampling, model="m@0123456789ab")
    assert spec.duplicates == count


def test_samples_with_one_seed(bench: Bench) -> None:
    spec = enqueue(bench, ask("a", "a", seed=1, n=3), sampling=DRAWN)
    engine = DoubleEngine()
    bench.burst(engine)
    assert len({row.params.seed for row in engine.asked}) == len(engine.asked) == 3
    assert sorted(column(spec, "sample_index")) == [0, 0, 1, 1, 2, 2]
    assert column(spec, "duplicate_of") == [None] * 3 + ["r0"] * 3
    assert verify(Path(spec.out)).complete


def test_an_error_is_shared_and_tried_again_once(bench: Bench) -> None:
    def fail(prompt: Any) -> GenerationOutput:
        raise MediaError("no file")

    spec = enqueue(bench, ask(*"aaaa"))
    engine = DoubleEngine(say=fail)
    bench.burst(engine)
    assert engine.prompts == ["a"]
    assert column(spec, "error") == ["no file"] * 4

    assert retry_errors(bench.redis, spec.run_id)[0] == 4
    engine = DoubleEngine()
    bench.burst(engine)
    assert engine.prompts == ["a"]
    assert column(spec, "text") == ["echo a"] * 4


def test_pauses_and_resumes_know_it(bench: Bench) -> None:
    spec = enqueue(bench, ask(*"ababab"))
    engine = DoubleEngine(held=True)
    worker = bench.worker(engine)
    worker.admit(wait=False)
    pause_run(bench.redis, spec.run_id)
    engine.answer(1)
    for _ in range(3):
        bench.be_due(worker)
        worker.settle()
        worker.tend()
        engine.answer()
    continue_run(bench.redis, spec.run_id)
    bench.burst(DoubleEngine())
    assert column(spec, "duplicate_of") == [None, None, "r0", "r1", "r0", "r1"]

    # With all parts lost but the first, whose answers are not in Redis any more.
    for part in sorted(Path(spec.out, "data").iterdir())[1:]:
        part.unlink()
    assert resume_run(bench.redis, spec.run_id).shards == 2
    again = DoubleEngine()
    bench.burst(again)
    assert set(again.prompts) == {"a", "b"}
    assert column(spec, "text") == ["echo a", "echo b"] * 3
    assert verify(Path(spec.out)).complete


def test_who_waits_for_a_killed_worker_s_row_answers_itself(bench: Bench) -> None:
    spec = enqueue(bench, ask(*"aaaaaaaa"), shard_size=4)
    bench.process("held", until=lambda: run_status(bench.redis, spec.run_id).shards["started"] == 2)
    bench._processes[0].kill()
    heir = bench.worker(DoubleEngine())
    bench.take_over(heir)
    bench.finish(spec, heir)
    assert column(spec, "text") == ["echo a"] * 8
    assert verify(Path(spec.out)).complete
