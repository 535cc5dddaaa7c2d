"""A worker whose clock is an hour off: leases are counted in Redis's time."""

from __future__ import annotations

import pytest

from tests.faults.harness import Stage, Undisturbed

ROWS = 1_000
HOUR = 3600


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["fast", "slow"])
def test_nobody_s_running_job_is_taken(stage: Stage, undisturbed: Undisturbed, ahead: int) -> None:
    """Long enough that whoever looks for lost jobs looks several times."""
    spec = stage.enqueue(ROWS)
    workers = [stage.start(delay=0.6), stage.start(delay=0.6, FAULT_CLOCK=ahead)]

    stage.finish(spec, timeout=90)

    assert all(stage.rows("answered", worker) for worker in workers), "both were at work"
    stage.check(spec, undisturbed(ROWS))
    assert stage.generated_again() == 0
    assert all("taken over" not in worker.said for worker in workers)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["fast", "slow"])
def test_a_killed_worker_s_jobs_are_taken_as_soon_as_others(
    stage: Stage, undisturbed: Undisturbed, ahead: int
) -> None:
    """Its lease was written by a clock that is off, and is looked for by one that is right."""
    spec = stage.enqueue(200)
    wrong = stage.start(FAULT_CLOCK=ahead)
    stage.wait_for_rows("answered", 10)
    wrong.kill()
    stage.start()

    stage.finish(spec, timeout=30)
    stage.check(spec, undisturbed(200))
