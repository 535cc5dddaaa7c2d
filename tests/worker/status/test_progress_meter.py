"""Where a run stands: all of it was said by the ledger or by a worker."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace

import pytest

from jobs.ledger import Counts
from jobs.pause import continue_run, pause_run
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.engines import DoubleEngine, commit_shard, echo, wait_for
from vllm_mlx.outputs import EngineStats, GenerationOutput
from worker.status.live import LiveCounts
from worker.status.phase import Phase
from worker.status.progress import RunProgress
from worker.status.progress_meter import ProgressMeter, RecordedRows
from worker.status.status import run_status


class Watched:
    """A run and the meter that reads it."""

    def __init__(self, bench: Bench, **options: int) -> None:
        self.bench = bench
        self.spec: RunSpec = bench.enqueue(rows=4, shard_size=2, **options)
        self.meter = ProgressMeter(self.spec, ["w"], time.monotonic() - 5)
        self.live = LiveCounts(bench.redis, "w", self.spec.model, self.spec.queue)

    def read(self) -> RunProgress:
        return self.meter.read(run_status(self.bench.redis, self.spec.run_id))


@pytest.fixture
def watched(bench: Bench) -> Watched:
    return Watched(bench)


def test_a_phase_is_what_a_worker_said_last(watched: Watched) -> None:
    redis, spec = watched.bench.redis, watched.spec
    assert watched.read().phase is Phase.STARTING, "nobody has said anything"
    with watched.live.loading():
        wait_for(lambda: watched.read().phase is Phase.LOADING)
    redis.delete("mlx-batch:live:w")
    assert watched.read().phase is Phase.LOADING, "it did, and says nothing else"

    engine = DoubleEngine(held=True)
    worker = watched.bench.worker(engine, name="w")
    worker.admit(wait=False)
    engine.stats = EngineStats(
        running=4, max_num_seqs=8, prefill_seconds=0.5, way="in slots, 2 x keys and values"
    )
    worker._publish()
    progress = watched.read()
    assert progress.slower_way == ""
    assert (progress.phase, progress.running, progress.max_num_seqs) == (Phase.PREFILL, 4, 8)

    way = "one row at a time (not in slots: slots have no form for chunks)"
    engine.stats = EngineStats(
        running=4, prompt_tokens=40, completion_tokens=4, decode_seconds=3, way=way
    )
    worker._live._at = 0.0  # a second later
    worker._publish()
    progress = watched.read()
    assert (progress.phase, progress.running, progress.rows_done) == (Phase.ANSWERING, 4, 0)
    assert progress.completion_tokens == 4
    assert progress.slower_way == way
    assert progress.decode_tokens_per_second == pytest.approx(4 / 3)
    assert progress.fraction
    pause_run(redis, spec.run_id)
    halting = watched.read()
    assert (halting.phase, halting.running, halting.remaining_seconds) == (Phase.ENDING, 4, None)
    assert halting.halt is not None
    continue_run(redis, spec.run_id)
    redis.delete("mlx-batch:live:w")  # a step of more than 15 s
    assert watched.read().phase is Phase.ANSWERING
    assert watched.read().fraction == progress.fraction, "the bar does not move back"

    for shard in (0, 1):
        commit_shard(redis, spec.run_id, shard, Counts(ok=2))
    assert watched.read().phase is Phase.VERIFYING


def test_a_finished_run_is_finished(watched: Watched) -> None:
    watched.bench.burst(DoubleEngine(), name="w")

    progress = watched.read()

    assert (progress.phase, progress.rows_done, progress.remaining_seconds) == (
        Phase.FINISHED,
        4,
        None,
    )
    assert 5 <= progress.elapsed_seconds < 60


def test_rows_in_error_are_told_by_type(watched: Watched) -> None:
    def say(prompt: str) -> GenerationOutput:
        if prompt.endswith(("1", "2")):
            raise KeyError(prompt)
        return echo(prompt)

    watched.bench.burst(DoubleEngine(say=say), name="w")

    progress = watched.read()
    assert (progress.rows_error, progress.error_types) == (2, {"KeyError": 2})


def test_rows_that_an_older_version_counted_are_of_no_type(watched: Watched) -> None:
    commit_shard(watched.bench.redis, watched.spec.run_id, 0, Counts(error=2))
    assert watched.read().error_types == {"": 2}


def test_what_a_worker_did_before_is_none_of_the_run(watched: Watched) -> None:
    """But all that the run's own did is, and its last word counts."""
    engine = DoubleEngine(held=True)
    engine.stats = replace(EngineStats(), completion_tokens=1000, decode_seconds=10.0)
    watched.bench.worker(engine, name="other")._publish()
    own = DoubleEngine(held=True)
    own.stats = replace(EngineStats(), completion_tokens=30, decode_seconds=1.0)
    watched.bench.worker(own, name="w")._publish()

    assert watched.read().completion_tokens == 30
    watched.bench.worker(engine, name="third")
    engine.stats = replace(engine.stats, completion_tokens=1007)
    watched.bench._workers[0]._publish()
    assert watched.read().completion_tokens == 37


def test_the_speed_of_now_is_that_of_the_last_seconds(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("worker.status.progress_meter.time.monotonic", lambda: clock[0])
    engine = DoubleEngine(held=True)
    worker = watched.bench.worker(engine, name="w")

    def after(seconds: float, **stats: float) -> RunProgress:
        clock[0] += seconds
        engine.stats = EngineStats(running=1, **stats)  # type: ignore[arg-type]
        worker._publish()
        return watched.read()

    after(0)
    assert after(2, prompt_tokens=100, prefill_seconds=1).prompt_tokens_per_second == 50
    done = {"prompt_tokens": 100, "prefill_seconds": 1, "decode_seconds": 4}
    assert after(8, completion_tokens=80, **done).completion_tokens_per_second == 10
    assert after(0, completion_tokens=80, **done).prompt_tokens_per_second == 0


def test_the_sample_is_the_last_row_that_has_ended(watched: Watched) -> None:
    with closing(RecordedRows(watched.bench.redis, watched.spec.run_id)) as rows:
        assert rows.last() is None
        watched.bench.burst(DoubleEngine(), name="w")
        wait_for(lambda: rows.last() is not None)
        watched.bench.redis.publish(f"mlx-batch:run:{watched.spec.run_id}:recorded", b"no row")
        last = rows.last()
    assert last is not None
    assert (last.id, last.output.text) == ("r3", "echo prompt 3")
