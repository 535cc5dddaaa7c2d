"""The engine's process dies under the worker: of a row that kills it, or of none."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.faults.harness import COMPARED, Stage, Undisturbed, rows_of
from tests.helpers.engines import wait_for

ROWS = 200
KILLERS = (37, 120)


def test_a_row_that_kills_twice_is_an_error_row_and_all_others_are_answered(
    stage: Stage, undisturbed: Undisturbed
) -> None:
    spec = stage.enqueue(ROWS)
    killers = ",".join(map(str, KILLERS))
    worker = stage.start("--burst", delay=0.1, FAULT_ABORT=killers)
    stage.finish(spec, timeout=90)

    rows = rows_of(Path(spec.out))
    for row_id, row in rows.items():
        if row["row"] in KILLERS:
            assert (row["finish_reason"], row["error_type"]) == ("error", "WorkerKilled")
        else:
            expected = undisturbed(ROWS)[row_id]
            assert [row[name] for name in COMPARED] == [expected[name] for name in COMPARED]
    assert worker.wait(timeout=60) == 0, "the worker itself went on"
    assert {stage.rows("begun").count(row) for row in KILLERS} == {2}


def test_an_engine_killed_from_outside_costs_no_row(stage: Stage, undisturbed: Undisturbed) -> None:
    """As Linux does when memory runs out; and a row that aborted it once may be innocent."""
    spec = stage.enqueue(ROWS)
    worker = stage.start("--burst", FAULT_ABORT_ONCE="150")
    stage.wait_for_rows("answered", 30)
    os.kill(stage.events()[-1].pid, signal.SIGKILL)
    wait_for(lambda: "started again" in worker.said)

    stage.finish(spec, timeout=90)

    stage.check(spec, undisturbed(ROWS))
    assert worker.wait(timeout=60) == 0
