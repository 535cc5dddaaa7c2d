"""Jobs that fail: retried later, failed for good, requeued by hand. Rows come from the double."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from jobs.dataset import Dataset, verify
from jobs.ledger import Ledger
from jobs.queue.queue_state import QueueState
from jobs.queue.run_jobs import RETRY, open_queue
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.engines import DoubleEngine, wait_for
from worker.batch_worker import BatchWorker
from worker.status.status import run_status


def step(worker: BatchWorker) -> None:
    worker.admit(wait=False)
    worker.settle()


def break_output(spec: RunSpec) -> Path:
    out = Path(spec.out)
    out.write_text("a file stands where the folder should")
    return out


def make_retries_due(redis: Redis, spec: RunSpec) -> None:
    """In place of waiting: every delayed retry's time has come."""
    registry = open_queue(redis, spec.queue).scheduled_job_registry
    for job_id in registry.get_job_ids():
        redis.zadd(registry.key, {job_id: time.time() - 1})


def delay_of(redis: Redis, spec: RunSpec) -> float:
    registry = open_queue(redis, spec.queue).scheduled_job_registry
    return registry.get_scheduled_time(spec.shard_id(0)).timestamp() - time.time()


def test_a_job_that_fails_is_retried_after_growing_delays_and_then_fails(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    break_output(spec)
    worker = bench.worker(DoubleEngine())

    for number, seconds in enumerate(RETRY.intervals):
        step(worker)
        assert bench.status(spec, 0) == "scheduled"
        assert delay_of(bench.redis, spec) == pytest.approx(seconds, abs=1.5)
        assert bench.job(spec, 0).retries_left == RETRY.max - 1 - number

        make_retries_due(bench.redis, spec)
        worker.bookkeeper.maintenance.enqueue_delayed_retries()
        assert bench.status(spec, 0) == "queued"
        bench.be_due(worker)  # an empty queue was seen a moment ago: do not wait for the tick
    step(worker)

    assert bench.status(spec, 0) == "failed"
    assert worker.bookkeeper.failed_job_count == 1 + RETRY.max
    reason = run_status(bench.redis, spec.run_id).errors[spec.shard_id(0)]
    assert reason.startswith("DatasetError: ")
    assert spec.out in reason
    assert Ledger(bench.redis).done_shards(spec.run_id) == set()
    assert bench.status(spec) == "deferred"


def test_a_retry_is_not_enqueued_before_its_time(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    break_output(spec)
    worker = bench.worker(DoubleEngine())
    step(worker)
    job = bench.job(spec, 0)
    bench.redis.zadd(
        open_queue(bench.redis, spec.queue).scheduled_job_registry.key, {job.id: time.time() + 9}
    )

    worker.bookkeeper.maintenance.enqueue_delayed_retries()

    assert bench.status(spec, 0) == "scheduled"


def test_a_retried_job_succeeds_and_counts_its_attempts(bench: Bench) -> None:
    import pyarrow.parquet as pq

    spec = bench.enqueue(rows=2, shard_size=2)
    out = break_output(spec)
    worker = bench.worker(DoubleEngine())
    step(worker)
    out.unlink()
    make_retries_due(bench.redis, spec)
    worker.bookkeeper.maintenance.enqueue_delayed_retries()
    bench.be_due(worker)

    step(worker)

    assert bench.status(spec, 0) == "finished"
    part = pq.read_table(out / "data" / "train-00000-of-00001.parquet")
    assert part["attempts"].to_pylist() == [1, 1], "its rows were in the ledger"


def test_requeue_by_hand_makes_a_failed_job_succeed_after_the_cure(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    out = break_output(spec)
    job = bench.job(spec, 0)
    job.retries_left = 0
    job.save()
    worker = bench.worker(DoubleEngine())
    step(worker)
    assert bench.status(spec, 0) == "failed"

    out.unlink()
    rq = [str(Path(sys.executable).with_name("rq")), "requeue", "--queue", spec.queue]
    rq += ["-u", bench.url, "-S", "rq.serializers.JSONSerializer", "--all"]
    said = subprocess.run(rq, check=True, capture_output=True, text=True)
    assert "Requeueing 1 jobs" in said.stdout
    assert bench.status(spec, 0) == "queued"

    def is_complete() -> bool:
        step(worker)
        return bench.status(spec) == "finished"

    wait_for(is_complete)
    assert verify(out).complete
    assert run_status(bench.redis, spec.run_id).shards["failed"] == 0


def test_a_finalize_job_that_fails_is_retried(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine())
    step(worker)
    part = Path(spec.out) / "data" / "train-00000-of-00001.parquet"
    aside = part.rename(bench.folder / "aside")

    def has_failed() -> bool:
        step(worker)
        return bench.status(spec) == "scheduled"

    wait_for(has_failed)
    assert not (Path(spec.out) / "_SUCCESS").exists()

    aside.rename(part)
    make_retries_due(bench.redis, spec)
    worker.bookkeeper.maintenance.enqueue_delayed_retries()

    def has_succeeded() -> bool:
        step(worker)
        return bench.status(spec) == "finished"

    wait_for(has_succeeded)
    assert (Path(spec.out) / "_SUCCESS").exists()


@pytest.mark.parametrize("step_of", ["write_part", "finalize"])
def test_an_error_nobody_thought_of_fails_its_job_and_not_the_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step_of: str
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("surprise")

    spec = bench.enqueue(rows=2, shard_size=2)
    monkeypatch.setattr(Dataset, step_of, broken)
    worker = bench.worker(DoubleEngine())
    job = 0 if step_of == "write_part" else None

    def is_delayed() -> bool:
        step(worker)
        return bench.status(spec, job) == "scheduled"

    wait_for(is_delayed)
    assert worker.flights == {}

    monkeypatch.undo()
    make_retries_due(bench.redis, spec)
    worker.bookkeeper.maintenance.enqueue_delayed_retries()

    def is_finished() -> bool:
        step(worker)
        return bench.status(spec) == "finished"

    wait_for(is_finished)


@pytest.mark.parametrize("reply_is_lost", [False, True])
def test_redis_may_go_away_between_a_commit_and_the_end_of_its_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, reply_is_lost: bool
) -> None:
    """The part is written and in the ledger, then the connection breaks."""
    spec = bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine())
    succeed = worker.bookkeeper.handle_job_success

    def break_once(*args: object, **kwargs: object) -> None:
        monkeypatch.setattr(worker.bookkeeper, "handle_job_success", succeed)
        if reply_is_lost:
            succeed(*args, **kwargs)
        raise RedisConnectionError("gone")

    monkeypatch.setattr(worker.bookkeeper, "handle_job_success", break_once)
    worker.admit(wait=False)
    with pytest.raises(RedisConnectionError):
        worker.settle()

    worker.settle()  # what `work` does once Redis is back

    assert bench.status(spec, 0) == "finished"
    assert Ledger(bench.redis).progress(spec.run_id).done.rows == 2


def test_redis_may_go_away_before_a_finalize_job_ends(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine())
    step(worker)
    succeed = worker.bookkeeper.handle_job_success
    failures = 0

    def break_once(*args: object, **kwargs: object) -> None:
        nonlocal failures
        failures += 1
        monkeypatch.setattr(worker.bookkeeper, "handle_job_success", succeed)
        raise RedisConnectionError("gone")

    monkeypatch.setattr(worker.bookkeeper, "handle_job_success", break_once)

    def is_finished() -> bool:
        try:
            step(worker)
        except RedisConnectionError:
            return False
        return bench.status(spec) == "finished"

    wait_for(is_finished, timeout=5)
    assert failures == 1


def test_a_burst_outlives_a_redis_that_is_away_for_a_moment(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.connection import connect

    spec = bench.enqueue(rows=2, shard_size=2)
    with connect(bench.url) as connection:
        worker = BatchWorker(spec.model, DoubleEngine(), connection=connection)
        look = QueueState.is_empty

        def break_once(_: QueueState) -> bool:
            monkeypatch.setattr(QueueState, "is_empty", look)
            raise RedisConnectionError("gone")

        monkeypatch.setattr(QueueState, "is_empty", break_once)

        worker.work(burst=True)

    assert bench.status(spec) == "finished"
