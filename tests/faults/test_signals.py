"""SIGTERM and Ctrl-C: a worker ends in order, within its grace, and hands back what is open."""

from __future__ import annotations

import signal
import time
from collections import Counter

import pytest

from tests.faults.harness import Stage, Undisturbed, front_of_queue, known_workers
from tests.helpers.engines import status_of

ROWS, SHARD_SIZE = 200, 50
SIGNALS = pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)


@SIGNALS
def test_a_worker_with_time_ends_its_rows_and_begins_no_more(
    stage: Stage, undisturbed: Undisturbed, signum: signal.Signals
) -> None:
    spec = stage.enqueue(ROWS, shard_size=SHARD_SIZE)
    worker = stage.start()
    stage.wait_for_rows("answered", 10)
    worker.signal(signum)
    at = time.monotonic()

    assert worker.wait(timeout=12) == 0

    begun = [event for event in stage.events() if event.what == "begun"]
    assert [event for event in begun if event.at > at + 0.5] == []
    rows = {event.row for event in begun}
    assert rows == set(stage.rows("answered", worker))
    per_shard = Counter(row // SHARD_SIZE for row in rows)
    whole = {shard for shard, count in per_shard.items() if count == SHARD_SIZE}
    with stage.server.client() as redis:
        assert front_of_queue(redis, spec) == sorted(set(range(4)) - whole)
        assert {status_of(redis, spec, shard) for shard in whole} <= {"finished"}
        assert known_workers(redis, spec) == []
    stage.start("--burst", delay=0)
    stage.finish(spec)
    stage.check(spec, undisturbed(ROWS))
    # A row may begin in the very moment in which the worker cancels it.
    assert stage.generated_again() <= 1


@SIGNALS
def test_a_worker_out_of_time_hands_its_jobs_back_first_in_the_queue(
    stage: Stage, undisturbed: Undisturbed, signum: signal.Signals
) -> None:
    spec = stage.enqueue(ROWS, shard_size=SHARD_SIZE)
    worker = stage.start("--grace", 2, delay=2)
    stage.wait_for_rows("answered", 20)
    worker.signal(signum)
    at = time.monotonic()

    assert worker.wait(timeout=10) == 0

    assert 1.5 < time.monotonic() - at < 5
    with stage.server.client() as redis:
        assert front_of_queue(redis, spec) == [0, 1, 2, 3]
        assert known_workers(redis, spec) == []
    # What its engine answered while the worker handed back was for nobody.
    answered = {e.row for e in stage.events() if e.what == "answered" and e.at < at + 1.5}
    heir = stage.start("--burst", delay=0)
    stage.finish(spec)
    stage.check(spec, undisturbed(ROWS))
    assert not answered & set(stage.rows("asked", heir)), "what was answered stays answered"


@SIGNALS
def test_a_second_signal_ends_it_at_once(
    stage: Stage, undisturbed: Undisturbed, signum: signal.Signals
) -> None:
    spec = stage.enqueue(ROWS, shard_size=SHARD_SIZE)
    worker = stage.start("--grace", 600, delay=3)
    stage.wait_for_rows("answered", 10)
    worker.signal(signum)
    time.sleep(1)
    assert worker.is_alive
    worker.signal(signum)

    assert worker.wait(timeout=3) == 0

    with stage.server.client() as redis:
        assert front_of_queue(redis, spec) == [0, 1, 2, 3]
    stage.start("--burst", delay=0)
    stage.finish(spec)
    stage.check(spec, undisturbed(ROWS))
