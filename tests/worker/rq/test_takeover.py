"""Leases: renewed for every job in flight, and what happens to a job whose worker died.

A worker lives as long as its record does. The tests do not wait for that: they remove records.
Rows come from the double, in this process or, to be killed, in one of their own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pyarrow.parquet as pq
import pytest
import rq.registry
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from rq.worker.base import BaseWorker

from jobs.dataset import Dataset, verify
from jobs.errors import DatasetError
from jobs.ledger import Ledger, RunState
from jobs.ledger.counts import Counts
from jobs.ledger.keys import steady_key
from jobs.ledger.lease import ShardLease
from jobs.producer import resume_run
from jobs.queue.run_jobs import RETRY, open_queue
from jobs.run_spec import RunSpec
from tests.helpers.engines import DoubleEngine, enqueue, job_of, status_of, wait_for
from tests.worker.conftest import StartProcess, StartWorker
from worker.batch_worker import BatchWorker
from worker.local_run import _reclaim
from worker.rq.bookkeeper import LEASE, TIDY


def expire_records(redis: Redis, *alive: BatchWorker) -> None:
    """In place of waiting for a lease without heartbeats."""
    for key in redis.keys("rq:worker:*"):
        if key.decode() not in {worker.key for worker in alive}:
            redis.delete(key)


def take_over(redis: Redis, worker: BatchWorker) -> None:
    """What `tend` does in the course of a lease."""
    expire_records(redis, worker)
    stay_steady(redis, worker)
    worker.run_maintenance_tasks()
    worker._due.clear()


def stay_steady(redis: Redis, worker: BatchWorker) -> None:
    """In place of heartbeats for a lease."""
    redis.set(steady_key(worker.queue.name), int(time.time()) - LEASE)
    worker.send_heartbeats()


def raising(error: Exception) -> Callable[..., NoReturn]:
    def fail(*_: object) -> NoReturn:
        raise error

    return fail


def finish(redis: Redis, spec: RunSpec, worker: BatchWorker) -> None:
    def is_finished() -> bool:
        worker.admit(wait=False)
        worker.settle()
        return Ledger(redis).progress(spec.run_id).state is RunState.FINISHED

    wait_for(is_finished)


def test_a_heartbeat_renews_the_worker_s_record(
    redis: Redis, tmp_path: Path, start_worker: StartWorker
) -> None:
    enqueue(redis, tmp_path, rows=6, shard_size=2)
    worker = start_worker(DoubleEngine(held=True))
    assert redis.ttl(worker.key) <= LEASE, "from the start"
    worker.admit(wait=False)
    assert redis.ttl(worker.key) <= LEASE, "also after it began jobs"
    for key in (worker.key, worker.executions_key):
        redis.expire(key, 1)

    worker.tend()

    assert redis.ttl(worker.key) == redis.ttl(worker.executions_key) == LEASE


def test_a_worker_whose_record_expired_is_known_again(
    redis: Redis, tmp_path: Path, start_worker: StartWorker
) -> None:
    """Redis was away for longer than a lease."""
    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    worker = start_worker(DoubleEngine(held=True))
    worker.admit(wait=False)
    redis.delete(worker.key, worker.executions_key, f"rq:workers:{spec.queue}", "rq:workers")

    worker.send_heartbeats()

    assert BaseWorker.all_keys(connection=redis) == [worker.key]
    assert redis.hget(worker.key, "state") == b"busy"
    assert redis.smembers(worker.executions_key) == {
        execution.composite_key.encode() for execution in worker.executions.values()
    }
    assert worker.current_execution_count == 1


def test_a_worker_that_begins_a_job_before_it_is_known_again_counts_as_alive(
    redis: Redis, tmp_path: Path, start_worker: StartWorker
) -> None:
    """It slept: its loop looks for jobs before it looks at its heart."""
    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    worker, other = start_worker(DoubleEngine(held=True)), start_worker(DoubleEngine())
    expire_records(redis, other)

    worker.admit(wait=False)
    worker.send_heartbeats()
    stay_steady(redis, other)
    other.run_maintenance_tasks()

    assert status_of(redis, spec, 0) == "started", "nobody took it back"


def test_a_worker_whose_first_word_after_a_gap_was_cut_off_says_it_again(
    redis: Redis, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start_worker(DoubleEngine())
    expire_records(redis)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "serialize", raising(RedisConnectionError("cut off")))
        with pytest.raises(RedisConnectionError):
            worker.send_heartbeats()

    worker.send_heartbeats()

    assert redis.hexists(worker.key, "birth")


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_no_clock_takes_a_job_from_who_lives(
    redis: Redis,
    tmp_path: Path,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    jump: int,
) -> None:
    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    start_worker(DoubleEngine(held=True)).admit(wait=False)
    other = start_worker(DoubleEngine())
    monkeypatch.setattr(rq.registry, "current_timestamp", lambda: int(time.time()) + jump)
    stay_steady(redis, other)

    other.run_maintenance_tasks()
    other.tidy()

    assert status_of(redis, spec, 0) == "started"


def test_who_was_away_judges_nobody(
    redis: Redis, tmp_path: Path, start_worker: StartWorker
) -> None:
    """All records expired while Redis was frozen, and one worker is back first."""
    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    start_worker(DoubleEngine(held=True)).admit(wait=False)
    first = start_worker(DoubleEngine())
    stay_steady(redis, first)
    assert redis.ttl(steady_key(spec.queue)) == LEASE // 2
    redis.delete(steady_key(spec.queue))  # expired
    expire_records(redis)

    first.send_heartbeats()
    first.run_maintenance_tasks()

    assert status_of(redis, spec, 0) == "started"


def test_who_looks_while_redis_freezes_takes_nothing_back(
    redis: Redis, tmp_path: Path, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    start_worker(DoubleEngine(held=True)).admit(wait=False)
    first = start_worker(DoubleEngine())
    stay_steady(redis, first)
    find_alive = first._reaper._alive

    def frozen(names: set[str]) -> set[str]:
        redis.delete(steady_key(spec.queue))  # expired
        expire_records(redis)
        return find_alive(names)

    monkeypatch.setattr(first._reaper, "_alive", frozen)
    first.run_maintenance_tasks()

    assert status_of(redis, spec, 0) == "started"


def test_the_jobs_of_a_killed_worker_are_taken_over(
    redis: Redis, tmp_path: Path, start_process: StartProcess, start_worker: StartWorker
) -> None:
    spec = enqueue(redis, tmp_path, rows=6, shard_size=2)
    process = start_process("held", until=lambda: status_of(redis, spec, 2) == "started")
    process.kill()
    process.wait()
    worker = start_worker(DoubleEngine())
    worker.admit(wait=False)
    worker.run_maintenance_tasks()
    assert status_of(redis, spec, 0) == "started", "the lease still runs"

    take_over(redis, worker)
    assert job_of(redis, spec, 0).retries_left == RETRY.max
    finish(redis, spec, worker)

    found = verify(Path(spec.out))
    assert (found.complete, found.ok, found.rows_in) == (True, 6, 6)
    assert redis.keys("rq:execution*") == [], "nothing is left of the dead worker's executions"


def test_a_worker_that_is_killed_while_it_commits_leaves_a_whole_dataset(
    redis: Redis, tmp_path: Path, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is on disk but not in the ledger: it is written again, not twice."""
    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    dying = start_worker(DoubleEngine(), name="dying")
    dying.admit(wait=False)
    with monkeypatch.context() as patched:
        patched.setattr(ShardLease, "commit", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            dying.settle()
    dying.flights.clear()
    dying.executions.clear()
    worker = start_worker(DoubleEngine(), name="heir")

    take_over(redis, worker)
    finish(redis, spec, worker)

    assert verify(Path(spec.out)).complete
    assert Ledger(redis).progress(spec.run_id).done == Counts(2, 0, 6, 4)


def test_the_late_result_of_a_worker_that_slept_is_refused(
    redis: Redis, tmp_path: Path, start_worker: StartWorker
) -> None:
    """A laptop was closed; by the time it opens, the run is over."""
    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    engine = DoubleEngine(held=True)
    sleeper = start_worker(engine, name="sleeper")
    sleeper.admit(wait=False)
    worker = start_worker(DoubleEngine(), name="awake")
    take_over(redis, worker)
    finish(redis, spec, worker)

    engine.answer()
    sleeper.settle()
    sleeper.tend()

    part = pq.read_table(Path(spec.out) / "data" / "train-00000-of-00001.parquet")
    assert set(part["worker"].to_pylist()) == {"awake"}
    assert status_of(redis, spec, 0) == "finished"
    assert status_of(redis, spec) == "finished"
    queue = open_queue(redis, spec.queue)
    assert (queue.count, queue.failed_job_registry.get_job_count()) == (0, 0)
    assert Ledger(redis).progress(spec.run_id).done.rows == 2
    assert sleeper.current_execution_count == 0


def test_finished_work_is_kept_though_the_lease_was_lost(
    redis: Redis, tmp_path: Path, start_worker: StartWorker
) -> None:
    """Redis was away for two minutes: another worker was back first and handed the job on."""
    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    engine = DoubleEngine(held=True)
    late = start_worker(engine)
    late.admit(wait=False)
    heir_engine = DoubleEngine()
    heir = start_worker(heir_engine)
    take_over(redis, heir)
    assert status_of(redis, spec, 0) == "queued"

    engine.answer()
    late.settle()

    assert Ledger(redis).done_shards(spec.run_id) == {0}
    finish(redis, spec, heir)
    assert heir_engine.asked == [], "nothing was generated twice"
    assert verify(Path(spec.out)).complete
    assert status_of(redis, spec, 0) == "finished"


def test_a_late_failure_does_not_touch_the_job_of_the_heir(
    redis: Redis, tmp_path: Path, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise DatasetError("the sleeper's disk is gone")

    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    engine = DoubleEngine(held=True)
    sleeper = start_worker(engine)
    sleeper.admit(wait=False)
    heir = start_worker(DoubleEngine(held=True))
    take_over(redis, heir)
    heir.admit(wait=False)
    before = redis.hgetall(job_of(redis, spec, 0).key)

    monkeypatch.setattr(Dataset, "write_part", broken)
    engine.answer()
    sleeper.settle()

    assert redis.hgetall(job_of(redis, spec, 0).key) == before
    assert open_queue(redis, spec.queue).scheduled_job_registry.get_job_count() == 0


def test_a_resumed_run_takes_its_jobs_back_with_no_retry_spent(
    redis: Redis, tmp_path: Path, start_worker: StartWorker
) -> None:
    """`run` was killed, for the fourth time: its jobs have done nothing wrong."""
    spec = enqueue(redis, tmp_path, rows=6, shard_size=2)
    dead = start_worker(DoubleEngine(max_num_seqs=2, held=True))
    dead.admit(wait=False)
    dead.flights.clear()
    dead.executions.clear()
    for shard, retries_left in enumerate((0, 2)):
        redis.hset(job_of(redis, spec, shard).key, "retries_left", retries_left)
    queue = open_queue(redis, spec.queue)

    _reclaim(queue)

    assert sorted(queue.get_job_ids()) == [spec.shard_id(shard) for shard in range(3)]
    assert [job_of(redis, spec, shard).retries_left for shard in range(2)] == [0, 2]
    assert queue.started_job_registry.get_job_count(cleanup=False) == 0
    worker = start_worker(DoubleEngine())
    finish(redis, spec, worker)
    assert verify(Path(spec.out)).complete


def test_rq_info_takes_no_job_from_anybody(
    redis: Redis, redis_url: str, tmp_path: Path, start_worker: StartWorker
) -> None:
    """Stock `rq info` cleans registries, and does not know our serializer or job class."""
    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    start_worker(DoubleEngine(held=True)).admit(wait=False)
    expire_records(redis)
    command = str(Path(sys.executable).with_name("rq"))

    subprocess.run([command, "info", "-u", redis_url, "--raw"], check=True, capture_output=True)

    assert status_of(redis, spec, 0) == "started"


def test_a_job_lost_between_taking_and_starting_is_found(
    redis: Redis, tmp_path: Path, start_worker: StartWorker
) -> None:
    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    queue = open_queue(redis, spec.queue)
    redis.lmove(queue.key, queue.intermediate_queue.key)
    worker = start_worker(DoubleEngine())
    take_over(redis, worker)
    assert queue.count == 0, "its worker may be about to begin it"
    worker._reaper._taken_at[spec.shard_id(0)] -= LEASE

    take_over(redis, worker)

    assert status_of(redis, spec, 0) == "queued"
    finish(redis, spec, worker)
    assert verify(Path(spec.out)).complete


def test_redis_may_go_away_between_taking_and_reading_a_job(
    redis: Redis, tmp_path: Path, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    worker = start_worker(DoubleEngine())

    def gone(*_: object, **__: object) -> None:
        raise RedisConnectionError("gone")

    with monkeypatch.context() as patched:
        patched.setattr("jobs.queue.job.BatchJob.fetch", gone)
        with pytest.raises(RedisConnectionError):
            worker.admit(wait=False)

    assert status_of(redis, spec, 0) == "queued", "there is nothing wrong with it"
    queue = open_queue(redis, spec.queue)
    assert queue.intermediate_queue.get_job_ids() == [spec.shard_id(0)]


def test_a_worker_that_dies_between_the_last_shard_and_what_waits_for_it_leaves_that_to_others(
    redis: Redis, tmp_path: Path, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    queue, worker = open_queue(redis, spec.queue), start_worker(DoubleEngine())
    monkeypatch.setattr(worker.queue, "enqueue_ready_jobs_by_queue", lambda _: None)
    worker.admit(wait=False)
    wait_for(lambda: worker.settle() or queue.ready_job_registry.get_job_ids(cleanup=False))
    assert resume_run(redis, spec.run_id).shards == 0
    assert queue.ready_job_registry.get_job_ids(cleanup=False) == [spec.finalize_id], (
        "on its way still"
    )
    assert not worker.nothing_is_left()

    worker.run_maintenance_tasks()
    worker._due.clear()

    finish(redis, spec, worker)


def test_a_burst_waits_for_a_job_that_somebody_took_and_never_began(
    redis: Redis, tmp_path: Path, start_worker: StartWorker
) -> None:
    queue = open_queue(redis, enqueue(redis, tmp_path, rows=2, shard_size=2).queue)
    redis.lmove(queue.key, queue.intermediate_queue.key)

    assert not start_worker(DoubleEngine()).nothing_is_left()


def test_redis_may_go_away_while_a_job_begins(
    redis: Redis, tmp_path: Path, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    worker = start_worker(DoubleEngine())
    with monkeypatch.context() as patch:
        patch.setattr(worker._ledger, "spec", raising(RedisConnectionError("cut off")))
        with pytest.raises(RedisConnectionError):
            worker.admit(wait=False)

    take_over(redis, worker)
    finish(redis, spec, worker)

    wait_for(worker.nothing_is_left)  # a burst would go on for ever
    assert redis.hget(worker.key, "state") == b"idle"


def test_maintenance_that_breaks_off_does_not_keep_others_from_it_for_long(
    redis: Redis, tmp_path: Path, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ holds its lock for 15 minutes; a dead worker's jobs would wait as long."""
    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    worker = start_worker(DoubleEngine())

    def broken(*_: object, **__: object) -> None:
        raise RedisConnectionError("gone")

    monkeypatch.setattr("rq.registry.StartedJobRegistry.cleanup", broken)
    with pytest.raises(RedisConnectionError):
        worker.tidy()

    assert redis.ttl(open_queue(redis, spec.queue).registry_cleaning_key) <= TIDY
