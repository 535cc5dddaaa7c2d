"""The record of runs in Redis: what is asked for, what is done, who speaks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from jobs.errors import RunNotFoundError
from jobs.ledger import Counts
from jobs.ledger.ledger import KEEP_FINISHED, Ledger, Progress, RunState
from jobs.ledger.stretch import Stretch
from jobs.result_row import ResultRow
from jobs.run_spec import InputSpec, RunSpec
from jobs.sources import Format
from tests.helpers.engines import commit_shard
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingParams


def make_spec(**changes: Any) -> RunSpec:
    fields: dict[str, Any] = {
        "model": "some/model",
        "out": "/data/out",
        "input": InputSpec(path="/in.jsonl", fingerprint="abc", format=Format.JSONL),
        "rows": 100,
        "input_rows": 100,
        "bad_rows": 0,
        "shard_size": 3,
        "sampling": SamplingParams.of(),
        "n": 1,
        "chat": False,
        "columns": {"prompt": "string"},
    }
    return RunSpec.create(**fields | changes)


@pytest.fixture
def ledger(redis: Redis) -> Ledger:
    return Ledger(redis)


@pytest.fixture
def spec(ledger: Ledger) -> RunSpec:
    """A run of 100 rows in 34 shards, created."""
    spec = make_spec()
    assert ledger.create(spec, time.time())
    return spec


def test_a_run_is_created_once(redis: Redis, ledger: Ledger, spec: RunSpec) -> None:
    commit_shard(redis, spec.run_id, 0, Counts(ok=3))
    again = spec.model_copy(update={"created_at": "later"})

    assert not ledger.create(again, time.time())
    assert not ledger.create(spec, time.time())

    assert ledger.spec(spec.run_id) == spec
    assert ledger.done_shards(spec.run_id) == {0}
    assert ledger.runs() == [spec.run_id]


def progress(spec: RunSpec, done: Counts, shards: int) -> Progress:
    """Of a run that goes on, in the stretch in which it was made."""
    stretch = Stretch(bounds=spec.bounds, rows=spec.rows)
    return Progress(spec, RunState.RUNNING, done, Counts(), shards, stretch=stretch)


def test_a_new_run_has_nothing_done(ledger: Ledger, spec: RunSpec) -> None:
    assert ledger.progress(spec.run_id) == progress(spec, Counts(), 0)
    assert ledger.done_shards(spec.run_id) == set()


def test_a_shard_counts_once_however_often_it_is_committed(
    redis: Redis, ledger: Ledger, spec: RunSpec
) -> None:
    counts = Counts(ok=2, error=1, prompt_tokens=30, completion_tokens=40)

    for _ in range(3):
        commit_shard(redis, spec.run_id, 4, counts)

    assert ledger.progress(spec.run_id) == progress(spec, counts, 1)


def test_counts_of_shards_add_up(redis: Redis, ledger: Ledger, spec: RunSpec) -> None:
    shards = [0, 7, 8, 31, 33]
    for shard in shards:
        commit_shard(redis, spec.run_id, shard, Counts(1, 2, 3, 4))

    progress = ledger.progress(spec.run_id)
    assert progress.done == Counts(5, 10, 15, 20)
    assert progress.done.rows == 15
    assert progress.shards_done == ledger.shards_done(spec.run_id) == 5
    assert ledger.done_shards(spec.run_id) == set(shards)


def test_runs_do_not_touch_each_other(redis: Redis, ledger: Ledger, spec: RunSpec) -> None:
    other = make_spec(model="other", out="/data/other")
    ledger.create(other, time.time() + 1)
    commit_shard(redis, other.run_id, 1, Counts(ok=3))

    assert ledger.runs() == [other.run_id, spec.run_id], "newest first"
    assert ledger.done_shards(spec.run_id) == set()
    assert ledger.progress(spec.run_id).done == Counts()


def test_a_finished_run_is_remembered_for_a_while(
    redis: Redis, ledger: Ledger, spec: RunSpec
) -> None:
    commit_shard(redis, spec.run_id, 0, Counts(ok=3))
    keys = redis.keys(f"mlx-batch:run:{spec.run_id}*")
    assert len(keys) == 4
    assert all(redis.ttl(key) == -1 for key in keys), "a run in flight must not expire"

    ledger.finish(spec.run_id)

    assert ledger.progress(spec.run_id).state is RunState.FINISHED
    assert all(KEEP_FINISHED - 5 < redis.ttl(key) <= KEEP_FINISHED for key in keys)


def test_a_run_whose_record_has_expired_is_not_listed(
    redis: Redis, ledger: Ledger, spec: RunSpec
) -> None:
    ledger.finish(spec.run_id)
    redis.delete(f"mlx-batch:run:{spec.run_id}", f"mlx-batch:run:{spec.run_id}:done")

    assert ledger.runs() == []


def test_a_forgotten_run_leaves_nothing(redis: Redis, ledger: Ledger, spec: RunSpec) -> None:
    commit_shard(redis, spec.run_id, 0, Counts(ok=3))

    ledger.forget(spec.run_id)

    assert redis.keys("mlx-batch:*") == []
    assert ledger.create(spec, time.time())


def test_an_unknown_run(ledger: Ledger) -> None:
    for ask in (ledger.spec, ledger.progress):
        with pytest.raises(RunNotFoundError, match="run-nowhere"):
            ask("run-nowhere")


@pytest.mark.parametrize("counts", [Counts(1, 2, 3, 4, 5), Counts(1, 2, 3, 4, 5, {"KeyError": 2})])
def test_counts_are_read_as_they_were_written(counts: Counts) -> None:
    assert Counts.decode(counts.encode().encode()) == counts


@pytest.mark.parametrize("raw", [b"[1, 2, 3, 4]", b"[1, 2, 3, 4, 0]"])
def test_counts_of_an_older_version(raw: bytes) -> None:
    assert Counts.decode(raw) == Counts(1, 2, 3, 4)


def test_counts_of_outputs() -> None:
    outputs = [
        GenerationOutput("a", 3, 4, "stop"),
        GenerationOutput("b", 5, 6, "length"),
        GenerationOutput.from_error(ValueError("c")),
    ]
    rows = [ResultRow("", row, output) for row, output in enumerate(outputs)]
    assert Counts.of(rows) == Counts(2, 1, 8, 10, error_types={"ValueError": 1})
    more = Counts(1, 1, 1, 1, error_types={"ValueError": 1, "KeyError": 2})
    types = {"ValueError": 2, "KeyError": 2}
    assert Counts.of(iter(rows)) + more == Counts(3, 2, 9, 11, error_types=types)
    assert Counts.of([]) == Counts()


def test_a_record_survives_the_way_through_redis(ledger: Ledger, tmp_path: Path) -> None:
    sampling = SamplingParams.of(stop=["\n", "ü"], seed=2**62)
    spec = make_spec(sampling=sampling, columns={"prompt": "string", "n": "int64"}, out="/ö")
    ledger.create(spec, 1.0)

    assert ledger.spec(spec.run_id) == ledger.progress(spec.run_id).spec == spec
