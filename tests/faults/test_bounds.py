"""A run that reaches a bound, or stops for a preview, while workers or the run are killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.run_spec import RunSpec
from tests.faults.harness import SEQS, Stage, Undisturbed, mlx_batch, prompts, rows_of
from tests.helpers.engines import wait_for
from tests.helpers.terminal import Terminal
from worker.flights.sharing import LOOKAHEAD
from worker.status.status import RunStatus, run_status

ROWS = 400
PREVIEW = 60  # of shards of 50


def at_rest(stage: Stage, spec: RunSpec) -> RunStatus:
    """Wait until nothing of the run will happen."""
    found: list[RunStatus] = []
    with stage.server.client() as redis:

        def is_at_rest() -> bool:
            found[:] = [run_status(redis, spec.run_id)]
            return found[0].is_at_rest and not found[0].shards["queued"]

        wait_for(is_at_rest, 60)
    return found[0]


@pytest.mark.parametrize(
    ("bound", "most", "point"),
    [
        ("max_errors", 2, "before_halt"),  # the rows are recorded, and nobody has said what follows
        pytest.param("max_output_tokens", 300, "before_halt", marks=pytest.mark.full),
        ("max_errors", 2, "after_halt"),
        ("max_output_tokens", 300, "after_park"),  # one job is put aside, the others are in hand
    ],
)
def test_a_worker_killed_as_it_halts_a_run(
    stage: Stage, undisturbed: Undisturbed, bound: str, most: int, point: str
) -> None:
    spec = stage.enqueue(ROWS, **{bound: most})
    victim = stage.start(delay=0.1, FAULT=f"kill:{point}")
    assert victim.wait(timeout=60) == -signal.SIGKILL
    heir = stage.start(delay=0.02)

    status = at_rest(stage, spec)

    assert status.halt is not None
    assert status.halt.reason == bound
    assert stage.rows("begun", heir) == [], "it knows that the run is halted"
    if bound == "max_errors":
        assert status.rows_error == most + 1

    stage.enqueue(ROWS, resume=True)
    stage.finish(spec)
    stage.check(spec, undisturbed(ROWS))
    assert stage.generated_again() <= 2 * LOOKAHEAD * SEQS


@pytest.mark.parametrize(
    "point", ["", pytest.param("after_rename", marks=pytest.mark.full), "after_park"]
)
def test_a_worker_killed_in_a_preview(stage: Stage, undisturbed: Undisturbed, point: str) -> None:
    spec = stage.enqueue(ROWS, preview=PREVIEW)
    victim = stage.start(delay=0.1, **({"FAULT": f"kill:{point}"} if point else {}))
    if point:
        assert victim.wait(timeout=60) == -signal.SIGKILL
    else:
        stage.wait_for_rows("answered", PREVIEW // 2, victim)
        victim.kill()
    stage.start(delay=0.02)

    status = at_rest(stage, spec)

    assert status.halt is not None
    assert status.halt.reason == "preview"
    assert status.rows_done == PREVIEW
    assert set(stage.rows("begun")) == set(range(PREVIEW))
    begun = len(stage.rows("begun"))
    time.sleep(2)
    assert len(stage.rows("begun")) == begun

    assert mlx_batch("continue", spec.run_id, url=stage.server.url).returncode == 0
    stage.finish(spec)
    stage.check(spec, undisturbed(ROWS))
    assert stage.generated_again() <= 2 * LOOKAHEAD * SEQS


def test_a_run_killed_at_its_question_asks_again(tmp_path: Path, text_folder: str) -> None:
    out = tmp_path / "out"
    words: list[Any] = ["run", prompts(tmp_path / "p.jsonl", 12), "--model", text_folder]
    words += ["--out", out, "--shard-size", 4, "--max-tokens", 4, "--temperature", 0]
    command = [sys.executable, "-m", "worker.cli", *map(str, words), "--preview", "3"]
    killed = Terminal(command, env=dict(os.environ))
    wait_for(lambda: "Go on with the rest?" in killed.text)
    killed.process.kill()
    killed.finish()
    shown = datetime.now(UTC).replace(tzinfo=None)
    told = mlx_batch("status", out, "--json", url="")
    assert '"state": "halted"' in told.stdout
    assert '"rows_done": 3' in told.stdout

    again = Terminal([*command, "--resume"], env=dict(os.environ))
    wait_for(lambda: "Go on with the rest?" in again.text)
    again.press("y\n")

    assert again.finish() == 0, again.text
    rows = rows_of(out)
    assert len(rows) == 12
    early = sorted(row["row"] for row in rows.values() if row["finished_at"] < shown)
    assert early == [0, 1, 2], "these, and no others"
