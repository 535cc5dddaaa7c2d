"""Several samples a row: side by side in the engine, one row of the dataset each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.dataset
from redis import Redis

from jobs.dataset import verify
from jobs.ledger import Ledger
from jobs.producer import enqueue_run
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.engines import MODEL, DoubleEngine, echo
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from worker.status.status import run_status

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "one", "temperature": 0, "n": 1},
    {"id": "b", "prompt": "two"},
    {"id": "c", "prompt": "", "n": 9},
    {"id": "d", "prompt": "three", "seed": 7, "n": 2},
]
SAMPLES = [("a", 0, 0), *(("b", 1, n) for n in range(4)), ("c", 2, 0), ("d", 3, 0), ("d", 3, 1)]


class SeededEngine(DoubleEngine):
    """Says what it was asked with, as a model's text follows from prompt and seed."""

    def ask(self, prompt: Any, params: SamplingParams) -> Any:
        self._say = lambda asked: replace(echo(f"{asked} {params.seed}"), seed=params.seed)
        return super().ask(prompt, params)


def enqueue_samples(redis: Redis, folder: Path, shard_size: int = 3, **options: Any) -> RunSpec:
    """Four rows with one, four (the run's default), no and two samples."""
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    options |= {"model": MODEL, "out": folder / "out", "n": 4, "skip_bad_rows": True}
    return enqueue_run(redis, path, shard_size=shard_size, **options).spec


def rows_of(spec: RunSpec) -> list[dict[str, Any]]:
    table = pyarrow.dataset.dataset(f"{spec.out}/data", format="parquet").to_table()
    return sorted(table.to_pylist(), key=lambda row: (row["row"], row["sample_index"]))


def test_each_sample_is_a_row_of_the_dataset(bench: Bench) -> None:
    spec = enqueue_samples(bench.redis, bench.folder)
    bench.burst(SeededEngine())

    rows = rows_of(spec)
    assert [(row["id"], row["row"], row["sample_index"]) for row in rows] == SAMPLES
    assert [row["error"] is not None for row in rows] == [row["id"] == "c" for row in rows]
    assert len({row["text"] for row in rows if row["id"] == "b"}) == 4
    assert rows[0]["seed"] is None
    assert rows[6]["seed"] == 7, "the first sample has the seed that was given"
    assert rows[7]["seed"] not in (7, None)
    found = verify(Path(spec.out))
    assert found.complete, found.problems
    assert (found.rows_in, found.ok, found.error) == (8, 7, 1)


def test_the_samples_of_a_prompt_reach_the_engine_one_after_the_other(bench: Bench) -> None:
    enqueue_samples(bench.redis, bench.folder)
    engine = DoubleEngine(max_num_seqs=32, held=True)

    bench.worker(engine).admit(wait=False)

    assert engine.prompts == ["one"] + 4 * ["two"] + 2 * ["three"]
    seeds = [row.params.seed for row in engine.asked]
    assert len(set(seeds)) == 7


def test_a_shard_reaches_the_engine_with_one_command(bench: Bench) -> None:
    """Row by row, an idle engine would start the first before it knows who shares its prompt."""
    enqueue_samples(bench.redis, bench.folder, shard_size=100)
    engine = DoubleEngine(max_num_seqs=32, held=True)

    bench.worker(engine).admit(wait=False)

    assert (len(engine.asked), engine.commands) == (7, 1)


def test_samples_are_counted_as_rows(bench: Bench) -> None:
    spec = enqueue_samples(bench.redis, bench.folder)
    engine = DoubleEngine(max_num_seqs=32, held=True)
    worker = bench.worker(engine)
    worker.admit(wait=False)
    assert (run_status(bench.redis, spec.run_id).rows_done, spec.rows) == (0, 8)

    engine.answer(4)
    worker.settle()
    worker._publish()

    status = run_status(bench.redis, spec.run_id)
    assert (status.done.rows, status.partial.rows, status.rows_done) == (3, 2, 5)
    assert status.partial.error == 1

    engine.answer()
    worker.settle()
    assert Ledger(bench.redis).progress(spec.run_id).done.rows == 8


def test_a_shard_done_again_has_the_same_texts(bench: Bench) -> None:
    """Also where a shard begins in the middle of a row's samples."""
    spec = enqueue_samples(bench.redis, bench.folder)
    bench.burst(SeededEngine())
    before = [row["text"] for row in rows_of(spec)]
    (bench.folder / "out" / "data" / "train-00001-of-00003.parquet").unlink()

    enqueue_samples(bench.redis, bench.folder, resume=True)
    again = SeededEngine()
    bench.burst(again)

    assert again.prompts == ["two", "two"]
    assert [row["text"] for row in rows_of(spec)] == before
    assert verify(Path(spec.out)).complete


def test_how_rows_are_cut_does_not_change_the_seeds_of_a_seeded_run(bench: Bench) -> None:
    texts = []
    for size in (1, 3, 100):
        (bench.folder / str(size)).mkdir()
        sampling = SamplingParams.of(seed=5)
        spec = enqueue_samples(
            bench.redis, bench.folder / str(size), shard_size=size, sampling=sampling
        )
        bench.burst(SeededEngine())
        texts.append([row["text"] for row in rows_of(spec)])
    assert texts[0] == texts[1] == texts[2]


def test_what_a_sample_says_of_itself_reaches_its_own_row(bench: Bench) -> None:
    answers = iter(range(7))

    def say(prompt: Any) -> GenerationOutput:
        return replace(echo(prompt), text=str(next(answers)), finish_reason="repetition")

    spec = enqueue_samples(bench.redis, bench.folder)
    bench.burst(DoubleEngine(say=say))

    texts = [row["text"] for row in rows_of(spec) if row["finish_reason"] != "error"]
    assert texts == list("0123456")
    assert verify(Path(spec.out)).ok == 7
