"""Runs that are halted: no more rows begin, those under way end, and all of it goes on later."""

from __future__ import annotations

from pathlib import Path

import pyarrow.dataset
import pytest

from jobs.dataset import verify
from jobs.errors import RunNotFoundError, RunStateError
from jobs.ledger import Ledger, ShardLease
from jobs.pause import continue_run, pause_run
from jobs.producer import resume_run
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import DoubleEngine, wait_for
from worker.batch_worker import BatchWorker
from worker.status import run_status


def step(bench: Bench, *workers: BatchWorker) -> None:
    for worker in workers:
        bench.be_due(worker)
        worker.admit(wait=False)
        worker.settle()
        worker.tend()


def texts(spec: RunSpec) -> list[str]:
    table = pyarrow.dataset.dataset(f"{spec.out}/data", format="parquet").to_table()
    return [row["text"] for row in sorted(table.to_pylist(), key=lambda row: row["row"])]


def test_rows_under_way_end_and_no_others_begin(bench: Bench) -> None:
    spec = bench.enqueue(rows=12, shard_size=4)
    engine = DoubleEngine(max_num_seqs=2, held=True)
    worker = bench.worker(engine)
    step(bench, worker)
    asked = list(engine.asked)

    assert cli("pause", spec.run_id, "-u", bench.url).exit_code == 0
    step(bench, worker)

    assert [row.future.cancelled() for row in asked] == [False] * 2 + [True] * (len(asked) - 2)
    assert run_status(bench.redis, spec.run_id).standing == "paused"
    assert not run_status(bench.redis, spec.run_id).is_over
    engine.answer()
    step(bench, worker)
    step(bench, worker)

    status = run_status(bench.redis, spec.run_id)
    assert status.is_over
    assert (status.rows_done, status.shards["deferred"]) == (2, 3)
    assert not worker.flights
    assert len(engine.asked) == len(asked)
    # Not one of its claims was idle: it was halted in order.
    lease = ShardLease.claim(bench.redis, spec.run_id, 0)
    assert lease is not None
    assert (lease.idle, len(lease.known)) == (1, 2)

    told = cli("continue", spec.run_id, "-u", bench.url)
    assert "3 shards" in told.stderr
    bench.burst(DoubleEngine())
    assert texts(spec) == [f"echo prompt {row}" for row in range(12)]
    assert verify(Path(spec.out)).complete
    assert run_status(bench.redis, spec.run_id).standing == "finished"


def test_a_run_that_goes_on_at_once_goes_on_in_its_worker(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=4)
    engine = DoubleEngine(max_num_seqs=1, held=True)
    worker = bench.worker(engine)
    step(bench, worker)
    pause_run(bench.redis, spec.run_id)
    step(bench, worker)
    assert len(engine.open) == 1

    assert continue_run(bench.redis, spec.run_id) == 0
    step(bench, worker)

    assert len(engine.open) == 4
    engine.answer()
    bench.finish(spec, worker)
    assert engine.prompts.count("prompt 0") == 1
    assert verify(Path(spec.out)).complete


def test_another_run_of_the_queue_goes_on(bench: Bench) -> None:
    paused = bench.enqueue(rows=8, shard_size=1, say="paused")
    other = bench.enqueue(rows=2, shard_size=1, say="other")
    pause_run(bench.redis, paused.run_id)

    engine = DoubleEngine()
    bench.burst(engine)

    assert engine.prompts == ["other 0", "other 1"]
    assert verify(Path(other.out)).complete
    assert run_status(bench.redis, paused.run_id).shards["deferred"] == 8
    assert resume_run(bench.redis, paused.run_id).shards == 8
    bench.burst(engine)
    assert verify(Path(paused.out)).complete


def test_the_jobs_of_a_killed_worker_are_put_aside_by_another(bench: Bench) -> None:
    spec = bench.enqueue(rows=8, shard_size=4)
    bench.process("held", until=lambda: run_status(bench.redis, spec.run_id).shards["started"])
    bench._processes[0].kill()
    pause_run(bench.redis, spec.run_id)
    engine = DoubleEngine()
    heir = bench.worker(engine)

    bench.take_over(heir)

    def are_aside() -> bool:
        step(bench, heir)
        return run_status(bench.redis, spec.run_id).shards["deferred"] == 2

    wait_for(are_aside)
    assert engine.asked == []
    assert continue_run(bench.redis, spec.run_id) == 2
    bench.finish(spec, heir)
    assert verify(Path(spec.out)).complete


def test_what_was_cut_off_between_two_steps_is_continued_again(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=1)
    pause_run(bench.redis, spec.run_id)
    bench.burst(DoubleEngine())
    Ledger(bench.redis).take_up(spec.run_id)  # and whoever asked for it was killed here

    assert continue_run(bench.redis, spec.run_id) == 2


def test_what_can_not_be_paused_or_continued_says_so(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    with pytest.raises(RunStateError, match=f"not halted.*mlx-batch resume {spec.run_id}"):
        continue_run(bench.redis, spec.run_id)
    pause_run(bench.redis, spec.run_id)
    with pytest.raises(RunStateError, match="halted already"):
        pause_run(bench.redis, spec.run_id)
    continue_run(bench.redis, spec.run_id)
    bench.burst(DoubleEngine())
    with pytest.raises(RunStateError, match="finished"):
        pause_run(bench.redis, spec.run_id)
    with pytest.raises(RunNotFoundError):
        pause_run(bench.redis, "run-nowhere")
