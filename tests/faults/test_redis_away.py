"""A Redis that is killed, frozen, or cuts the line: workers wait for it and go on."""

from __future__ import annotations

import time

import pytest

from tests.faults.harness import FULL, Stage, Undisturbed
from tests.faults.proxy import Proxy

ROWS = 500
AWAY = [10, pytest.param(60, marks=pytest.mark.full)]  # seconds
INFRASTRUCTURE = 3


@pytest.mark.parametrize("seconds", AWAY)
def test_workers_wait_for_a_redis_that_was_killed(
    stage: Stage, undisturbed: Undisturbed, seconds: int
) -> None:
    spec = stage.enqueue(ROWS)
    workers = [stage.start(), stage.start()]
    stage.wait_for_rows("answered", 100)
    stage.server.kill()
    time.sleep(seconds)
    assert [worker.is_alive for worker in workers] == [True, True]
    stage.server.start()

    stage.finish(spec)

    stage.check(spec, undisturbed(ROWS))
    assert stage.generated_again() == 0, "both workers held what they had"
    assert [worker.is_alive for worker in workers] == [True, True]


@pytest.mark.parametrize("seconds", [10, pytest.param(30, marks=pytest.mark.full)])
def test_workers_wait_for_a_redis_that_is_frozen(
    stage: Stage, undisturbed: Undisturbed, seconds: int
) -> None:
    """When it thaws, all leases are over at once."""
    spec = stage.enqueue(ROWS)
    workers = [stage.start(), stage.start()]
    stage.wait_for_rows("answered", 100)
    stage.server.freeze()
    time.sleep(seconds)
    stage.server.thaw()

    stage.finish(spec)

    stage.check(spec, undisturbed(ROWS))
    assert stage.generated_again() == 0, "both workers held what they had"
    assert [worker.is_alive for worker in workers] == [True, True]


def test_a_reply_lost_on_its_way_applies_nothing_twice(
    stage: Stage, undisturbed: Undisturbed
) -> None:
    proxy = Proxy(stage.server.port, cut_every=5 if FULL else 20)
    spec = stage.enqueue(ROWS)
    workers = [stage.start(delay=0.1, url=proxy.url), stage.start(delay=0.1, url=proxy.url)]

    stage.finish(spec, timeout=240)  # every second of work may cost half a second of waiting

    assert proxy.cuts >= 5, "else nothing was tested"
    stage.check(spec, undisturbed(ROWS))
    assert stage.generated_again() == 0
    assert [worker.is_alive for worker in workers] == [True, True]
    proxy.close()


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_a_worker_gives_up_after_its_timeout_only(
    stage: Stage, undisturbed: Undisturbed, how: str
) -> None:
    spec = stage.enqueue(200)
    worker = stage.start("--redis-timeout", 8)
    stage.wait_for_rows("answered", 20)
    getattr(stage.server, how)()
    gone_at = time.monotonic()
    time.sleep(6)
    assert worker.is_alive

    # A frozen server is noticed after 8 s at most, and perhaps asked once more just before.
    assert worker.wait(timeout=8 + 8 + 8) == INFRASTRUCTURE

    assert time.monotonic() - gone_at >= 8
    last = worker.said.strip().splitlines()[-1]
    assert last.startswith("mlx-batch: redis://"), "one line, no traceback"
    if how == "kill":
        stage.server.start()
    else:
        stage.server.thaw()
    stage.start("--burst", delay=0)
    stage.finish(spec)
    stage.check(spec, undisturbed(200))
