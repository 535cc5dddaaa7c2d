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
from redis.exceptions import ConnectionError as RedisConnectionError
from rq.worker.base import BaseWorker

from jobs.dataset import Dataset, verify
from jobs.errors import DatasetError
from jobs.ledger import Counts, Ledger, ShardLease
from jobs.ledger.keys import loading_key, steady_key
from jobs.producer import resume_run
from jobs.queue.queue_state import QueueState
from jobs.queue.run_jobs import RETRY, open_queue
from tests.helpers.bench import Bench
from tests.helpers.engines import DoubleEngine, wait_for
from vllm_mlx.outputs import EngineStats
from worker.rq.bookkeeper import LEASE
from worker.rq.maintenance import TIDY, take_back_all
from worker.status.live import LiveCounts
from worker.status.status import run_status


def raising(error: Exception) -> Callable[..., NoReturn]:
    def fail(*_: object) -> NoReturn:
        raise error

    return fail


def test_a_heartbeat_renews_the_worker_s_record(bench: Bench) -> None:
    bench.enqueue(rows=6, shard_size=2)
    worker = bench.worker(DoubleEngine(held=True))
    assert bench.redis.ttl(worker.bookkeeper.key) <= LEASE, "from the start"
    worker.admit(wait=False)
    assert bench.redis.ttl(worker.bookkeeper.key) <= LEASE, "also after it began jobs"
    for key in (worker.bookkeeper.key, worker.bookkeeper.executions_key):
        bench.redis.expire(key, 1)

    worker.tend()

    assert (
        bench.redis.ttl(worker.bookkeeper.key)
        == bench.redis.ttl(worker.bookkeeper.executions_key)
        == LEASE
    )


def test_a_worker_whose_record_expired_is_known_again(bench: Bench) -> None:
    """Redis was away for longer than a lease."""
    spec = bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine(held=True))
    worker.admit(wait=False)
    bench.redis.delete(
        worker.bookkeeper.key,
        worker.bookkeeper.executions_key,
        f"rq:workers:{spec.queue}",
        "rq:workers",
    )

    worker.bookkeeper.send_heartbeats()

    assert BaseWorker.all_keys(connection=bench.redis) == [worker.bookkeeper.key]
    assert bench.redis.hget(worker.bookkeeper.key, "state") == b"busy"
    assert bench.redis.smembers(worker.bookkeeper.executions_key) == {
        execution.composite_key.encode() for execution in worker.bookkeeper.executions.values()
    }
    assert worker.bookkeeper.current_execution_count == 1


def test_a_worker_that_begins_a_job_before_it_is_known_again_counts_as_alive(bench: Bench) -> None:
    """It slept: its loop looks for jobs before it looks at its heart."""
    spec = bench.enqueue(rows=2, shard_size=2)
    worker, other = bench.worker(DoubleEngine(held=True)), bench.worker(DoubleEngine())
    bench.expire_records(other)

    worker.admit(wait=False)
    worker.bookkeeper.send_heartbeats()
    bench.stay_steady(other)
    other.bookkeeper.maintenance.take_back_lost()

    assert bench.status(spec, 0) == "started", "nobody took it back"


def test_a_worker_whose_first_word_after_a_gap_was_cut_off_says_it_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = bench.worker(DoubleEngine())
    bench.expire_records()
    with monkeypatch.context() as patch:
        patch.setattr(worker.bookkeeper, "serialize", raising(RedisConnectionError("cut off")))
        with pytest.raises(RedisConnectionError):
            worker.bookkeeper.send_heartbeats()

    worker.bookkeeper.send_heartbeats()

    assert bench.redis.hexists(worker.bookkeeper.key, "birth")


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_no_clock_takes_a_job_from_who_lives(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    bench.worker(DoubleEngine(held=True)).admit(wait=False)
    other = bench.worker(DoubleEngine())
    monkeypatch.setattr(rq.registry, "current_timestamp", lambda: int(time.time()) + jump)
    bench.stay_steady(other)

    other.bookkeeper.maintenance.take_back_lost()
    other.bookkeeper.maintenance.tidy()

    assert bench.status(spec, 0) == "started"


def test_who_was_away_judges_nobody(bench: Bench) -> None:
    """All records expired while Redis was frozen, and one worker is back first."""
    spec = bench.enqueue(rows=2, shard_size=2)
    bench.worker(DoubleEngine(held=True)).admit(wait=False)
    first = bench.worker(DoubleEngine())
    bench.stay_steady(first)
    assert bench.redis.ttl(steady_key(spec.queue)) == LEASE // 2
    bench.redis.delete(steady_key(spec.queue))  # expired
    bench.expire_records()

    first.bookkeeper.send_heartbeats()
    first.bookkeeper.maintenance.take_back_lost()

    assert bench.status(spec, 0) == "started"


def test_who_looks_while_redis_freezes_takes_nothing_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    bench.worker(DoubleEngine(held=True)).admit(wait=False)
    first = bench.worker(DoubleEngine())
    bench.stay_steady(first)
    find_alive = first.bookkeeper.maintenance._alive

    def frozen(names: set[str]) -> set[str]:
        bench.redis.delete(steady_key(spec.queue))  # expired
        bench.expire_records()
        return find_alive(names)

    monkeypatch.setattr(first.bookkeeper.maintenance, "_alive", frozen)
    first.bookkeeper.maintenance.take_back_lost()

    assert bench.status(spec, 0) == "started"


def test_the_jobs_of_a_killed_worker_are_taken_over(bench: Bench) -> None:
    spec = bench.enqueue(rows=6, shard_size=2)
    process = bench.process("held", until=lambda: bench.status(spec, 2) == "started")
    process.kill()
    process.wait()
    worker = bench.worker(DoubleEngine())
    worker.admit(wait=False)
    worker.bookkeeper.maintenance.take_back_lost()
    assert bench.status(spec, 0) == "started", "the lease still runs"

    bench.take_over(worker)
    assert bench.job(spec, 0).retries_left == RETRY.max
    bench.finish(spec, worker)

    found = verify(Path(spec.out))
    assert (found.complete, found.ok, found.rows_in) == (True, 6, 6)
    assert bench.redis.keys("rq:execution*") == [], (
        "nothing is left of the dead worker's executions"
    )


def test_a_worker_that_is_killed_while_it_commits_leaves_a_whole_dataset(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part is on disk but not in the ledger: it is written again, not twice."""
    spec = bench.enqueue(rows=2, shard_size=2)
    dying = bench.worker(DoubleEngine(), name="dying")
    dying.admit(wait=False)
    with monkeypatch.context() as patched:
        patched.setattr(ShardLease, "commit", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            dying.settle()
    dying.flights.clear()
    dying.bookkeeper.executions.clear()
    worker = bench.worker(DoubleEngine(), name="heir")

    bench.take_over(worker)
    bench.finish(spec, worker)

    assert verify(Path(spec.out)).complete
    assert Ledger(bench.redis).progress(spec.run_id).done == Counts(2, 0, 6, 4)


def test_the_late_result_of_a_worker_that_slept_is_refused(bench: Bench) -> None:
    """A laptop was closed; by the time it opens, the run is over."""
    spec = bench.enqueue(rows=2, shard_size=2)
    engine = DoubleEngine(held=True)
    sleeper = bench.worker(engine, name="sleeper")
    sleeper.admit(wait=False)
    worker = bench.worker(DoubleEngine(), name="awake")
    bench.take_over(worker)
    bench.finish(spec, worker)

    engine.answer()
    sleeper.settle()
    sleeper.tend()

    part = pq.read_table(Path(spec.out) / "data" / "train-00000-of-00001.parquet")
    assert set(part["worker"].to_pylist()) == {"awake"}
    assert bench.status(spec, 0) == "finished"
    assert bench.status(spec) == "finished"
    queue = open_queue(bench.redis, spec.queue)
    assert (queue.count, queue.failed_job_registry.get_job_count()) == (0, 0)
    assert Ledger(bench.redis).progress(spec.run_id).done.rows == 2
    assert sleeper.bookkeeper.current_execution_count == 0


def test_finished_work_is_kept_though_the_lease_was_lost(bench: Bench) -> None:
    """Redis was away for two minutes: another worker was back first and handed the job on."""
    spec = bench.enqueue(rows=2, shard_size=2)
    engine = DoubleEngine(held=True)
    late = bench.worker(engine)
    late.admit(wait=False)
    heir_engine = DoubleEngine()
    heir = bench.worker(heir_engine)
    bench.take_over(heir)
    assert bench.status(spec, 0) == "queued"

    engine.answer()
    late.settle()

    assert Ledger(bench.redis).done_shards(spec.run_id) == {0}
    bench.finish(spec, heir)
    assert heir_engine.asked == [], "nothing was generated twice"
    assert verify(Path(spec.out)).complete
    assert bench.status(spec, 0) == "finished"


def test_a_late_failure_does_not_touch_the_job_of_the_heir(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise DatasetError("the sleeper's disk is gone")

    spec = bench.enqueue(rows=2, shard_size=2)
    engine = DoubleEngine(held=True)
    sleeper = bench.worker(engine)
    sleeper.admit(wait=False)
    heir = bench.worker(DoubleEngine(held=True))
    bench.take_over(heir)
    heir.admit(wait=False)
    before = bench.redis.hgetall(bench.job(spec, 0).key)

    monkeypatch.setattr(Dataset, "write_part", broken)
    engine.answer()
    sleeper.settle()

    assert bench.redis.hgetall(bench.job(spec, 0).key) == before
    assert open_queue(bench.redis, spec.queue).scheduled_job_registry.get_job_count() == 0


def test_a_resumed_run_takes_its_jobs_back_with_no_retry_spent(bench: Bench) -> None:
    """`run` was killed, for the fourth time: its jobs have done nothing wrong."""
    spec = bench.enqueue(rows=6, shard_size=2)
    dead = bench.worker(DoubleEngine(max_num_seqs=2, held=True))
    dead.admit(wait=False)
    dead.flights.clear()
    dead.bookkeeper.executions.clear()
    for shard, retries_left in enumerate((0, 2)):
        bench.redis.hset(bench.job(spec, shard).key, "retries_left", retries_left)
    queue = open_queue(bench.redis, spec.queue)
    dead._publish()
    for name, key in (("w1", loading_key(spec.queue)), ("w2", f"rq:workers:{spec.queue}")):
        bench.redis.sadd(key, name)
        LiveCounts(bench.redis, name, spec.model, spec.queue).publish(EngineStats())
    assert len(run_status(bench.redis, spec.run_id).workers) == 3

    take_back_all(queue)

    assert run_status(bench.redis, spec.run_id).workers == {}, "none of this start"
    assert QueueState(queue).load() == (3, 0, 0)
    assert sorted(queue.get_job_ids()) == [spec.shard_id(shard) for shard in range(3)]
    assert [bench.job(spec, shard).retries_left for shard in range(2)] == [0, 2]
    assert queue.started_job_registry.get_job_count(cleanup=False) == 0
    worker = bench.worker(DoubleEngine())
    worker._publish()
    assert list(run_status(bench.redis, spec.run_id).workers) == [worker.bookkeeper.name]
    bench.finish(spec, worker)
    assert verify(Path(spec.out)).complete


def test_rq_info_takes_no_job_from_anybody(bench: Bench) -> None:
    """Stock `rq info` cleans registries, and does not know our serializer or job class."""
    spec = bench.enqueue(rows=2, shard_size=2)
    bench.worker(DoubleEngine(held=True)).admit(wait=False)
    bench.expire_records()
    command = str(Path(sys.executable).with_name("rq"))

    subprocess.run([command, "info", "-u", bench.url, "--raw"], check=True, capture_output=True)

    assert bench.status(spec, 0) == "started"


def test_a_job_lost_between_taking_and_starting_is_found(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    queue = open_queue(bench.redis, spec.queue)
    bench.redis.lmove(queue.key, queue.intermediate_queue.key)
    worker = bench.worker(DoubleEngine())
    bench.take_over(worker)
    assert queue.count == 0, "its worker may be about to begin it"
    worker.bookkeeper.maintenance._taken_at[spec.shard_id(0)] -= LEASE

    bench.take_over(worker)

    assert bench.status(spec, 0) == "queued"
    bench.finish(spec, worker)
    assert verify(Path(spec.out)).complete


def test_redis_may_go_away_between_taking_and_reading_a_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine())

    def gone(*_: object, **__: object) -> None:
        raise RedisConnectionError("gone")

    with monkeypatch.context() as patched:
        patched.setattr("jobs.queue.job.BatchJob.fetch", gone)
        with pytest.raises(RedisConnectionError):
            worker.admit(wait=False)

    assert bench.status(spec, 0) == "queued", "there is nothing wrong with it"
    queue = open_queue(bench.redis, spec.queue)
    assert queue.intermediate_queue.get_job_ids() == [spec.shard_id(0)]


def test_a_worker_that_dies_between_the_last_shard_and_what_waits_for_it_leaves_that_to_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    queue, worker = open_queue(bench.redis, spec.queue), bench.worker(DoubleEngine())
    monkeypatch.setattr(worker.bookkeeper.queue, "enqueue_ready_jobs_by_queue", lambda _: None)
    worker.admit(wait=False)
    wait_for(lambda: worker.settle() or queue.ready_job_registry.get_job_ids(cleanup=False))
    assert resume_run(bench.redis, spec.run_id).shards == 0
    assert queue.ready_job_registry.get_job_ids(cleanup=False) == [spec.finalize_id], (
        "on its way still"
    )
    assert not QueueState(queue).is_empty()

    worker.bookkeeper.maintenance.take_back_lost()
    bench.be_due(worker)

    bench.finish(spec, worker)


def test_a_burst_waits_for_a_job_that_somebody_took_and_never_began(bench: Bench) -> None:
    queue = open_queue(bench.redis, bench.enqueue(rows=2, shard_size=2).queue)
    bench.redis.lmove(queue.key, queue.intermediate_queue.key)

    assert not QueueState(queue).is_empty()


def test_redis_may_go_away_while_a_job_begins(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine())
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "spec", raising(RedisConnectionError("cut off")))
        with pytest.raises(RedisConnectionError):
            worker.admit(wait=False)

    bench.take_over(worker)
    bench.finish(spec, worker)

    wait_for(QueueState(worker.bookkeeper.queue).is_empty)  # a burst would go on for ever
    assert bench.redis.hget(worker.bookkeeper.key, "state") == b"idle"


def test_maintenance_that_breaks_off_does_not_keep_others_from_it_for_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ holds its lock for 15 minutes; a dead worker's jobs would wait as long."""
    spec = bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine())

    def broken(*_: object, **__: object) -> None:
        raise RedisConnectionError("gone")

    monkeypatch.setattr("rq.registry.StartedJobRegistry.cleanup", broken)
    with pytest.raises(RedisConnectionError):
        worker.bookkeeper.maintenance.tidy()

    assert bench.redis.ttl(open_queue(bench.redis, spec.queue).registry_cleaning_key) <= TIDY
