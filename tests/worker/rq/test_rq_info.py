"""What `rq info` and `mlx-batch status` say, against a state that is known because it is held.

The worker is driven step by step and its rows are held by the double, so that every number is
known; `rq info` is the real one, in a process of its own, and knows nothing of our classes.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from jobs.ledger import Counts, Ledger
from jobs.queue.run_jobs import open_queue
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.engines import DoubleEngine, wait_for
from worker.rq.dequeue import dequeue
from worker.status.live import LIVE_TTL
from worker.status.status import RunStatus, run_status

QUEUE_LINE = re.compile(r"queue (\S+) (\d+), (\d+) executing, (\d+) finished, (\d+) failed")
WORKER_LINE = re.compile(r"worker (\S+) .* (\w+) \S+\. jobs: (\d+) finished, (\d+) failed")

pytestmark = pytest.mark.usefixtures("two_batches")


@dataclass(frozen=True)
class Info:
    """`rq info --raw` of one queue and its workers."""

    queues: dict[str, tuple[int, ...]]
    workers: dict[str, tuple[str, int, int]]


def rq_info(url: str) -> Info:
    command = [str(Path(sys.executable).with_name("rq")), "info", "-u", url, "--raw"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    queues, workers = {}, {}
    for line in said.splitlines():
        if found := QUEUE_LINE.fullmatch(line):
            queues[found[1]] = tuple(map(int, found.groups()[1:]))
        else:
            found = WORKER_LINE.fullmatch(line)
            assert found, line
            workers[found[1]] = (found[2], int(found[3]), int(found[4]))
    return Info(queues, workers)


def shards_of(status: RunStatus) -> dict[str, int]:
    """The counts that are not zero."""
    shards = status.as_dict()["shards"]
    return {name: count for name, count in shards.items() if count and name != "total"}


def test_rq_info_and_status_tell_the_truth_at_every_moment(bench: Bench) -> None:
    def now(spec: RunSpec) -> tuple[tuple[int, ...], dict[str, tuple[str, int, int]]]:
        info = rq_info(bench.url)
        return info.queues[spec.queue], info.workers

    # Nothing.
    assert rq_info(bench.url) == Info({}, {})

    # Six shards wait; the finalize job is deferred and stands in no count.
    spec = bench.enqueue(rows=12, shard_size=2)
    assert now(spec) == ((6, 0, 0, 0), {})
    assert shards_of(run_status(bench.redis, spec.run_id)) == {"queued": 6}

    # A worker that has not begun.
    engine = DoubleEngine(max_num_seqs=3, held=True)
    worker = bench.worker(engine, name="only")
    assert now(spec) == ((6, 0, 0, 0), {"only": ("started", 0, 0)})

    # Three of six are executing on the one worker.
    worker.admit(wait=False)
    assert now(spec) == ((3, 3, 0, 0), {"only": ("busy", 0, 0)})
    assert shards_of(run_status(bench.redis, spec.run_id)) == {"queued": 3, "started": 3}

    # One of the three is done, two go on.
    engine.answer(2)
    worker.settle()
    assert now(spec) == ((3, 2, 1, 0), {"only": ("busy", 1, 0)})
    assert shards_of(run_status(bench.redis, spec.run_id)) == {"queued": 3, "started": 2, "done": 1}

    # One fails for good and one will be retried, while new ones have come.
    job = bench.job(spec, 1)
    worker.admit(wait=False)
    fail, flights = worker.bookkeeper.fail, worker.flights
    flights.end(flights[job.id], partial(fail, error=RuntimeError("on purpose"), retry=False))
    flights.end(flights[spec.shard_id(2)], partial(fail, error=RuntimeError("for now")))
    assert now(spec) == ((2, 1, 1, 1), {"only": ("busy", 1, 2)})
    status = run_status(bench.redis, spec.run_id)
    assert shards_of(status) == {"queued": 2, "started": 1, "done": 1, "delayed": 1, "failed": 1}
    assert status.errors == {job.id: "RuntimeError: on purpose"}
    assert status.shards["missing"] == 0

    # The jobs of one more shard are deleted by somebody.
    bench.job(spec, 5).delete()
    assert now(spec)[0] == (1, 1, 1, 1)
    assert run_status(bench.redis, spec.run_id).shards["missing"] == 1

    # All in flight ends; the worker is idle.
    engine.answer()
    worker.settle()
    assert now(spec) == ((1, 0, 2, 1), {"only": ("idle", 2, 2)})

    # The worker has gone.
    worker.shut_down()
    assert now(spec) == ((1, 0, 2, 1), {})


def test_the_finalize_job_is_no_shard(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=2)
    worker = bench.worker(DoubleEngine())
    worker.admit(wait=False)
    worker.settle()

    assert bench.status(spec) == "queued"
    assert rq_info(bench.url).queues[spec.queue] == (1, 0, 2, 0)
    assert shards_of(run_status(bench.redis, spec.run_id)) == {"done": 2}

    def is_complete() -> bool:
        worker.admit(wait=False)
        worker.settle()
        return bench.status(spec) == "finished"

    wait_for(is_complete)
    assert rq_info(bench.url).queues[spec.queue] == (0, 0, 3, 0)
    status = run_status(bench.redis, spec.run_id)
    assert status.is_finished
    assert shards_of(status) == {"done": 2}


def test_a_failed_finalize_job_is_an_error_but_no_failed_shard(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine())
    worker.admit(wait=False)
    worker.settle()
    job = dequeue(worker.bookkeeper.queue, None)
    assert job is not None
    worker.bookkeeper.fail(worker.bookkeeper.begin(job), RuntimeError("no space"), retry=False)

    status = run_status(bench.redis, spec.run_id)
    assert shards_of(status) == {"done": 1}
    assert status.errors == {spec.finalize_id: "RuntimeError: no space"}


def test_status_counts_answered_rows_of_shards_that_are_not_whole(bench: Bench) -> None:
    spec = bench.enqueue(rows=8, shard_size=4)
    engine = DoubleEngine(held=True)
    worker = bench.worker(engine)
    worker.admit(wait=False)

    engine.answer(3)
    worker.settle()
    worker.tend()

    status = run_status(bench.redis, spec.run_id)
    assert (status.done.rows, status.partial, status.rows_done) == (0, Counts(3, 0, 9, 6), 3)
    assert list(status.workers) == [worker.bookkeeper.name]
    assert status.tokens_per_second > 0


def test_status_counts_no_row_twice(bench: Bench) -> None:
    """A row that was published as answered is committed a moment later."""
    spec = bench.enqueue(rows=12, shard_size=4)
    engine = DoubleEngine(held=True)
    worker = bench.worker(engine)
    worker.admit(wait=False)
    engine.answer(3)
    worker.settle()
    worker.tend()

    engine.answer(1)
    worker.settle()

    assert run_status(bench.redis, spec.run_id).rows_done == 4


def test_the_word_of_a_worker_expires(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine(held=True))
    worker.tend()
    assert list(run_status(bench.redis, spec.run_id).workers) == [worker.bookkeeper.name]
    (key,) = bench.redis.keys("mlx-batch:live:*")
    assert 0 < bench.redis.ttl(key) <= LIVE_TTL

    worker.shut_down()

    assert run_status(bench.redis, spec.run_id).workers == {}
    assert 0 < bench.redis.ttl(key) <= LIVE_TTL, "its last counts are for those that wait for them"


def test_a_run_does_not_see_the_jobs_of_another(bench: Bench) -> None:
    ours = bench.enqueue(rows=4, shard_size=2, say="ours")
    theirs = bench.enqueue(rows=2, shard_size=2, say="theirs")
    bench.worker(DoubleEngine(max_num_seqs=1, held=True)).admit(wait=False)

    assert shards_of(run_status(bench.redis, ours.run_id)) == {"queued": 1, "started": 1}
    assert shards_of(run_status(bench.redis, theirs.run_id)) == {"queued": 1}


def test_rq_info_changes_nothing(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=2)
    engine = DoubleEngine(max_num_seqs=1, held=True)
    worker = bench.worker(engine)
    worker.admit(wait=False)
    before = {
        key: bench.redis.hgetall(key)
        for key in bench.redis.keys("rq:job:*")
        if bench.redis.type(key) == b"hash"
    }

    rq_info(bench.url)

    assert {key: bench.redis.hgetall(key) for key in before} == before
    engine.answer()
    worker.settle()
    assert Ledger(bench.redis).done_shards(spec.run_id) == {0}
    assert open_queue(bench.redis, spec.queue).get_job_ids() == [spec.shard_id(1)]
