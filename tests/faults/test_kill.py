"""kill -9 of workers in the middle of their work."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import pytest

from tests.faults.harness import FULL, SEQS, Event, Stage, Undisturbed, Worker
from tests.helpers.engines import wait_for
from worker.flights.sharing import LOOKAHEAD

ROWS, SHARD_SIZE = 2_000, 50
KILLS = 25 if FULL else 3
SEED = 5
TAKEN_OVER_WITHIN = 15.0  # seconds


@dataclass(frozen=True)
class Kill:
    at: float
    worker: str
    open_rows: set[int]

    def seconds_until_taken_over(self, events: list[Event]) -> float:
        """Until each shard with an open row was somebody else's."""
        later = [
            e for e in events if e.what == "asked" and e.at > self.at and e.worker != self.worker
        ]
        shards = {row // SHARD_SIZE for row in self.open_rows}
        firsts = [
            min((e.at for e in later if e.row // SHARD_SIZE == shard), default=float("inf"))
            for shard in shards
        ]
        return max(firsts) - self.at if firsts else 0.0


def kill(stage: Stage, worker: Worker) -> Kill:
    at = time.monotonic()
    worker.kill()
    return Kill(at, worker.label, stage.open_rows(worker))


def test_workers_killed_at_random_moments_lose_nothing(
    stage: Stage, undisturbed: Undisturbed, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(SEED)
    spec = stage.enqueue(ROWS, shard_size=SHARD_SIZE)
    alive = [stage.start(), stage.start()]
    kills: list[Kill] = []
    for answered in sorted(chance.sample(range(ROWS // 50, ROWS * 9 // 10), KILLS)):
        stage.wait_for_rows("answered", answered, timeout=60)
        # Two at work, so that one is left: what a queue without workers takes is not asked here.
        wait_for(lambda: all(stage.is_known(worker) for worker in alive))
        wait_for(lambda: any(stage.open_rows(worker) for worker in alive))
        victim = chance.choice([worker for worker in alive if stage.open_rows(worker)])
        kills.append(kill(stage, victim))
        alive.remove(victim)
        alive.append(stage.start())
    stage.finish(spec, timeout=120)

    stage.check(spec, undisturbed(ROWS))
    again = stage.generated_again()
    waited = [each.seconds_until_taken_over(stage.events()) for each in kills]
    with capsys.disabled():
        print(f"\n{KILLS} kills: {again} rows generated again; taken over in {max(waited):.1f} s")
    assert again <= KILLS * LOOKAHEAD * SEQS
    assert max(waited) <= TAKEN_OVER_WITHIN


@pytest.mark.full
def test_both_workers_killed_at_once_and_the_server_with_them(
    stage: Stage, undisturbed: Undisturbed
) -> None:
    """A power cut: nobody is left that remembers anything."""
    spec = stage.enqueue(500)
    for worker in (stage.start(), stage.start()):
        stage.wait_for_rows("answered", 50, worker)
    for worker in stage.workers:
        worker.kill()
    stage.server.kill()
    stage.server.start()
    stage.start("--burst")

    stage.finish(spec)
    stage.check(spec, undisturbed(500))
    assert stage.generated_again() <= 2 * LOOKAHEAD * SEQS
