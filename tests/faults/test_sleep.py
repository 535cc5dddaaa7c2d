"""A laptop that is closed in the middle of its work, and opened when others have done it."""

from __future__ import annotations

import signal
from pathlib import Path

from jobs.run_spec import RunSpec
from tests.faults.harness import Stage, Undisturbed, rows_of
from tests.helpers.engines import wait_for

ROWS, SHARD_SIZE = 200, 50


def parts(spec: RunSpec) -> dict[str, tuple[int, int]]:
    """The parts, and what tells whether one was put in anew."""
    found = (Path(spec.out) / "data").glob("*.parquet")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def test_a_worker_that_slept_cannot_commit_over_its_successor(
    stage: Stage, undisturbed: Undisturbed
) -> None:
    spec = stage.enqueue(ROWS, shard_size=SHARD_SIZE)
    sleeper = stage.start(name="sleeper")
    stage.wait_for_rows("answered", 10)
    sleeper.signal(signal.SIGSTOP)
    wait_for(lambda: sleeper.is_stopped)
    held = stage.open_rows(sleeper)
    kept = len(stage.rows("answered"))
    awake = stage.start(name="awake")
    wait_for(lambda: held <= set(stage.rows("asked", awake)))
    stage.finish(spec)
    before = parts(spec)

    sleeper.signal(signal.SIGCONT)
    wait_for(lambda: len(stage.rows("answered", sleeper)) > kept)
    wait_for(lambda: "taken over" in sleeper.said)

    stage.check(spec, undisturbed(ROWS))
    assert parts(spec) == before, "the late part was not written"
    late = [row for row in rows_of(Path(spec.out)).values() if row["row"] in held]
    assert {row["worker"] for row in late} == {"awake"}
    assert sleeper.is_alive


def test_the_sleeper_wakes_while_its_successor_is_at_work(
    stage: Stage, undisturbed: Undisturbed
) -> None:
    """Its answers come first, and count for nothing: the shard is somebody else's."""
    spec = stage.enqueue(ROWS, shard_size=SHARD_SIZE)
    sleeper = stage.start(name="sleeper")
    stage.wait_for_rows("answered", 10)
    sleeper.signal(signal.SIGSTOP)
    wait_for(lambda: sleeper.is_stopped)
    held = stage.open_rows(sleeper)
    awake = stage.start(name="awake", delay=2)
    wait_for(lambda: held & set(stage.rows("begun", awake)))
    begun = held & set(stage.rows("begun", awake))  # the others it may hand to whoever has none

    sleeper.signal(signal.SIGCONT)
    stage.finish(spec)

    stage.check(spec, undisturbed(ROWS))
    rows = rows_of(Path(spec.out)).values()
    assert {row["worker"] for row in rows if row["row"] in begun} == {"awake"}
    assert sleeper.is_alive


def test_a_worker_that_fell_asleep_as_it_committed_wakes_after_the_end(
    stage: Stage, undisturbed: Undisturbed
) -> None:
    """All its rows are answered and recorded, so whoever commits them commits the same."""
    spec = stage.enqueue(SHARD_SIZE, shard_size=SHARD_SIZE)
    sleeper = stage.start(delay=0.02, FAULT="stop:before_rename")
    wait_for(lambda: sleeper.is_stopped)
    stage.start(delay=0.02)
    stage.finish(spec)

    sleeper.signal(signal.SIGCONT)
    wait_for(lambda: "taken over" in sleeper.said)

    stage.check(spec, undisturbed(SHARD_SIZE))
    assert stage.generated_again() == 0
    assert sleeper.is_alive
