"""A run that is paused while workers are killed lacks nothing and has nothing twice."""

from __future__ import annotations

import time

from tests.faults.harness import SEQS, Stage, Undisturbed, mlx_batch
from tests.helpers.engines import wait_for
from worker.flights.sharing import LOOKAHEAD
from worker.status.status import run_status

ROWS = 800


def test_paused_killed_and_continued(stage: Stage, undisturbed: Undisturbed) -> None:
    spec = stage.enqueue(ROWS)
    victim, heir = stage.start(), stage.start()
    for worker in stage.workers:
        stage.wait_for_rows("answered", 30, worker)

    assert mlx_batch("pause", spec.run_id, url=stage.server.url).returncode == 0
    victim.kill()
    with stage.server.client() as redis:
        wait_for(lambda: run_status(redis, spec.run_id).is_at_rest, 30)
        done = run_status(redis, spec.run_id).rows_done
    begun = len(stage.rows("begun"))
    time.sleep(2)
    assert len(stage.rows("begun")) == begun
    # What had begun has ended, and nothing else has: but for what the kill took along.
    assert begun - 2 * SEQS <= done < ROWS

    told = mlx_batch("continue", spec.run_id, url=stage.server.url)
    assert told.returncode == 0, told.stderr
    heir.kill()
    stage.start("--burst")
    stage.finish(spec)
    stage.check(spec, undisturbed(ROWS))
    assert stage.generated_again() <= 2 * LOOKAHEAD * SEQS
