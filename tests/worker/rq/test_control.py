"""What ends, stops or pauses jobs and workers. Rows come from the double, held as needed."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq.command import send_shutdown_command, send_stop_execution_command, send_stop_job_command
from rq.suspension import resume, suspend

from jobs.connection import connect
from jobs.dataset import verify
from jobs.ledger import Ledger, ShardLease
from jobs.queue.run_jobs import RETRY, open_queue
from tests.helpers.bench import Bench, work_in_burst
from tests.helpers.engines import DoubleEngine, wait_for
from tests.helpers.terminal import Terminal
from worker.batch_worker import BatchWorker
from worker.rq.bookkeeper import Bookkeeper
from worker.status.status import run_status
from worker.stop_signal import StopSignal

# Time.

pytestmark = pytest.mark.usefixtures("two_batches")


def test_a_job_past_its_timeout_fails_and_its_rows_make_room(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=2)
    job = bench.job(spec, 0)
    job.timeout, job.retries_left = 1, 0
    job.save()
    engine = DoubleEngine(max_num_seqs=2, held=True)
    worker = bench.worker(engine)
    worker.admit(wait=False)
    worker.tend()
    assert bench.status(spec, 0) == "started"

    time.sleep(1.1)
    worker.tend()

    assert bench.status(spec, 0) == "failed"
    assert "took longer than 1 s" in run_status(bench.redis, spec.run_id).errors[job.id]
    assert [row.prompt for row in engine.open] == ["prompt 2", "prompt 3"]
    assert bench.status(spec, 1) == "started"


def test_a_job_past_its_timeout_is_retried(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine(held=True))
    worker.admit(wait=False)
    worker.flights[spec.shard_id(0)].deadline = time.monotonic() - 1
    worker.tend()

    assert bench.status(spec, 0) == "scheduled"
    lease = ShardLease.claim(bench.redis, spec.run_id, 0)
    assert lease is not None
    assert lease.idle == 1, "nobody died of it"


# `rq`'s commands.


@pytest.mark.parametrize("command", ["stop-job", "stop-execution"])
def test_one_of_several_jobs_in_flight_is_stopped(bench: Bench, command: str) -> None:
    spec = bench.enqueue(rows=6, shard_size=2)
    engine = DoubleEngine(held=True)
    worker = bench.worker(engine)
    worker.admit(wait=False)
    queue = open_queue(bench.redis, spec.queue)
    second = spec.shard_id(1)

    if command == "stop-job":
        send_stop_job_command(bench.redis, second, serializer=queue.serializer)
    else:
        running = dict(queue.started_job_registry.get_job_and_execution_ids())
        send_stop_execution_command(bench.redis, second, running[second])

    def is_stopped() -> bool:
        worker.tend()
        return bench.status(spec, 1) == "stopped"

    wait_for(is_stopped)
    assert [row.prompt for row in engine.open] == ["prompt 0", "prompt 1", "prompt 4", "prompt 5"]
    assert worker.bookkeeper.current_execution_count == 2
    assert queue.scheduled_job_registry.get_job_count() == 0, "stopped, so not retried"

    engine.answer()
    worker.settle()
    assert [bench.status(spec, shard) for shard in range(3)] == [
        "finished",
        "stopped",
        "finished",
    ]
    assert bench.status(spec) == "deferred"
    assert Ledger(bench.redis).done_shards(spec.run_id) == {0, 2}


def test_a_stop_that_redis_keeps_from_being_done_is_done_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine(held=True))
    worker.admit(wait=False)
    worker.bookkeeper.to_stop.add(spec.shard_id(0))

    def cut_off(_: object) -> NoReturn:
        raise RedisConnectionError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(worker.bookkeeper, "holds", cut_off)
        with pytest.raises(RedisConnectionError):
            worker.tend()
    worker.tend()

    assert bench.status(spec, 0) == "stopped"


def test_commands_are_heard_again_after_redis_was_frozen(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = bench.worker(DoubleEngine())
    monkeypatch.setattr("rq.worker.base.time.sleep", lambda _: None)
    heard = worker.bookkeeper.pubsub, worker.bookkeeper.pubsub_thread

    worker.bookkeeper._pubsub_exception_handler(RedisTimeoutError("frozen"), *heard)  # it goes on
    with pytest.raises(ValueError, match="closed file"):
        raise_in_handler(worker.bookkeeper, ValueError("closed file"))
    worker.bookkeeper._is_abandoned = True
    raise_in_handler(worker.bookkeeper, ValueError("closed file"))


def raise_in_handler(bookkeeper: Bookkeeper, error: Exception) -> None:
    """As RQ's thread does it."""
    try:
        raise error
    except ValueError as caught:
        bookkeeper._pubsub_exception_handler(caught, bookkeeper.pubsub, bookkeeper.pubsub_thread)


def test_a_stop_for_a_job_that_is_not_here_is_ignored(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine(held=True))
    worker.admit(wait=False)
    worker.bookkeeper.to_stop.add("some-other-job")

    worker.tend()

    assert bench.status(spec, 0) == "started"


def test_a_suspended_worker_takes_no_job_and_goes_on_with_those_it_has(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=2)
    engine = DoubleEngine(max_num_seqs=1, held=True)
    worker = bench.worker(engine)
    worker.admit(wait=False)
    assert bench.status(spec, 1) == "queued"

    suspend(bench.redis)
    engine.answer()
    worker.settle()
    assert bench.status(spec, 0) == "finished"
    worker.admit(wait=False)
    assert bench.status(spec, 1) == "queued"
    assert bench.redis.hget(worker.bookkeeper.key, "state") == b"suspended"

    resume(bench.redis)
    bench.be_due(worker)  # it asks again after a tick
    worker.admit(wait=False)
    assert bench.status(spec, 1) == "started"
    assert bench.redis.hget(worker.bookkeeper.key, "state") == b"busy"


def test_rq_shuts_a_worker_down(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    process = bench.process("held", "grace=0", until=lambda: bench.status(spec, 0) == "started")

    send_shutdown_command(bench.redis, "other")

    assert process.wait(timeout=10) == 0
    assert bench.status(spec, 0) == "queued"


# The end.


def test_a_burst_ends_when_nothing_is_left(bench: Bench) -> None:
    spec = bench.enqueue(rows=5, shard_size=2)
    engine = DoubleEngine()

    worker = bench.burst(engine)

    assert verify(Path(spec.out)).complete
    assert worker.bookkeeper.successful_job_count == 4
    assert not engine.is_running
    assert bench.redis.smembers("rq:workers") == set()


def test_a_burst_without_jobs_ends_at_once(redis_url: str) -> None:
    with connect(redis_url) as connection:
        worker = BatchWorker("some-model", DoubleEngine(), connection=connection)
        worker.work(burst=True)

    assert worker.bookkeeper.successful_job_count == worker.bookkeeper.failed_job_count == 0


def test_a_burst_waits_for_delayed_retries(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    blocked = Path(spec.out)
    blocked.write_text("in the way")
    cure = threading.Timer(0.6, blocked.unlink)  # the first retry comes after a second
    cure.start()

    worker = bench.burst(DoubleEngine())

    cure.join()
    assert worker.bookkeeper.failed_job_count == 1
    assert verify(blocked).complete


def test_a_suspended_burst_ends(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    suspend(bench.redis)

    bench.burst(DoubleEngine())

    assert bench.status(spec, 0) == "queued"


def test_jobs_are_given_back_in_order_with_no_retry_spent(bench: Bench) -> None:
    spec = bench.enqueue(rows=6, shard_size=2)
    engine = DoubleEngine(max_num_seqs=2, held=True)
    worker = bench.worker(engine)
    worker.admit(wait=False)
    queue = open_queue(bench.redis, spec.queue)
    assert queue.get_job_ids() == [spec.shard_id(2)]

    worker.shut_down()

    assert queue.get_job_ids() == [spec.shard_id(shard) for shard in range(3)]
    assert queue.started_job_registry.get_job_and_execution_ids() == []
    for shard in range(2):
        job = bench.job(spec, shard)
        assert (job.get_status(), job.retries_left) == ("queued", RETRY.max)
    assert engine.open == []
    assert bench.redis.smembers("rq:workers") == set()


def test_a_signal_stops_admission_and_jobs_may_end_within_the_grace(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=2)
    engine = DoubleEngine(max_num_seqs=1, held=True)
    worker = bench.worker(engine, grace=60)
    worker.admit(wait=False)

    os.kill(os.getpid(), signal.SIGTERM)

    assert worker.stop_signal.is_requested
    assert not worker._is_over(burst=False)
    engine.answer()
    worker.admit(wait=False)
    worker.settle()
    assert bench.status(spec, 0) == "finished"
    assert bench.status(spec, 1) == "queued"
    assert worker._is_over(burst=False)


def test_a_second_signal_ends_the_grace(bench: Bench) -> None:
    bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine(held=True), grace=60)
    worker.admit(wait=False)

    os.kill(os.getpid(), signal.SIGINT)
    assert not worker._is_over(burst=False)
    os.kill(os.getpid(), signal.SIGINT)
    assert worker._is_over(burst=False)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_process_that_is_told_to_end_gives_its_jobs_back(
    bench: Bench, signum: signal.Signals
) -> None:
    spec = bench.enqueue(rows=4, shard_size=2)
    process = bench.process("held", "grace=0.2", until=lambda: bench.status(spec, 1) == "started")

    process.send_signal(signum)

    assert process.wait(timeout=10) == 0
    queue = open_queue(bench.redis, spec.queue)
    assert sorted(queue.get_job_ids()) == [spec.shard_id(0), spec.shard_id(1)]
    assert bench.job(spec, 0).retries_left == RETRY.max
    assert bench.redis.smembers("rq:workers") == set()


def test_a_worker_whose_terminal_closes_ends_in_order_within_its_grace(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=2)
    command = [sys.executable, "-m", "tests.helpers.double_worker", bench.url, "w", "held"]
    terminal = Terminal([*command, "grace=1.5"])
    try:
        wait_for(lambda: bench.status(spec, 1) == "started")
        closed_at = time.monotonic()
        terminal.close()
        terminal.process.send_signal(signal.SIGHUP)  # the shell's, after the kernel's

        assert terminal.process.wait(timeout=10) == 0
    finally:
        terminal.process.kill()
        terminal.close()

    assert time.monotonic() - closed_at > 1.4, "the second SIGHUP does not end the grace"
    assert sorted(open_queue(bench.redis, spec.queue).get_job_ids()) == [
        spec.shard_id(0),
        spec.shard_id(1),
    ]
    assert bench.redis.smembers("rq:workers") == set()


def test_a_worker_that_was_started_with_nohup_outlives_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    StopSignal(grace=10).listen()

    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


# Whose jobs.


def test_jobs_of_another_model_are_left_alone_and_the_log_says_so(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    spec = bench.enqueue(rows=4, shard_size=2, model="some/other-model")
    worker = bench.worker(DoubleEngine())

    with caplog.at_level(logging.WARNING, "mlx_batch.worker"):
        for _ in range(3):
            bench.be_due(worker)
            worker.admit(wait=False)

    assert [bench.status(spec, shard) for shard in range(2)] == ["queued", "queued"]
    said = [r.getMessage() for r in caplog.records if r.name == "mlx_batch.worker"]
    assert said == ["no jobs for smollm2-135m; jobs wait for: some--other-model (2)"], "said once"


def test_a_worker_that_ends_in_a_burst_says_it_too(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.enqueue(rows=4, shard_size=2, model="some/other-model")

    with caplog.at_level(logging.WARNING, "mlx_batch.worker"):
        bench.burst(DoubleEngine())

    assert "no jobs for smollm2-135m; jobs wait for: some--other-model (2)" in caplog.messages


def test_a_name_that_is_at_work_can_not_be_taken(bench: Bench) -> None:
    bench.worker(DoubleEngine(), name="taken")
    with connect(bench.url) as connection:
        worker = BatchWorker("m", DoubleEngine(), connection=connection, name="taken")
        with pytest.raises(ValueError, match="taken"):
            worker.work(burst=True)


def test_a_worker_that_ends_leaves_no_thread_asleep(redis_url: str) -> None:
    """Told in RQ's order, the thread that listens for commands may sleep on for a minute."""
    for _ in range(5):
        worker = work_in_burst(redis_url, DoubleEngine())
        assert not worker.bookkeeper.pubsub_thread.is_alive()
