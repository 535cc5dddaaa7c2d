"""kill -9 of a worker between the steps by which a shard, and then the run, becomes final."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults.harness import SEQS, Stage, Undisturbed, Worker
from worker.flights.sharing import LOOKAHEAD

SHARD_SIZE = 50

POINTS = [
    "before_rename",  # all rows are answered, the part is not there
    "after_rename",  # the part is there, the ledger does not know
    "before_success_of_rq",  # the ledger knows, RQ does not
    "before_success_file",  # the dataset is verified, and has no mark
    "after_success_file",  # it has, the ledger does not know
]


def first_whole_shard(stage: Stage, worker: Worker) -> int:
    """The shard whose last answer came first: the one that the worker was at."""
    counts: Counter[int] = Counter()
    for row in stage.rows("answered", worker):
        counts[row // SHARD_SIZE] += 1
        if counts[row // SHARD_SIZE] == SHARD_SIZE:
            return row // SHARD_SIZE
    raise AssertionError("no shard is whole")


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_killed_there_has_done_nothing_in_vain(
    stage: Stage, undisturbed: Undisturbed, point: str
) -> None:
    spec = stage.enqueue(200)
    victim = stage.start(FAULT=f"kill:{point}")
    assert victim.wait(timeout=60) == -9
    stage.start("--burst", delay=0.02)

    stage.finish(spec)

    stage.check(spec, undisturbed(200))
    shard = first_whole_shard(stage, victim)
    begun = [row for row in stage.rows("begun") if row // SHARD_SIZE == shard]
    assert len(begun) == SHARD_SIZE, "none of its rows was generated again"
    assert stage.generated_again() <= LOOKAHEAD * SEQS, "of other shards, those in flight"
