"""A job that is in the queue and in a worker's hands at once is neither lost nor fought over."""

from __future__ import annotations

from pathlib import Path

from jobs.dataset import verify
from jobs.queue.run_jobs import open_queue
from tests.helpers.bench import Bench
from tests.helpers.engines import DoubleEngine
from worker.batch_worker import BatchWorker
from worker.rq.dequeue import dequeue


def test_who_slept_and_gets_its_own_job_again_goes_on_with_it(bench: Bench) -> None:
    """Else its job would be in no list: committed perhaps, but no finalize job would follow."""
    spec = bench.enqueue(rows=4, shard_size=4)
    engine = DoubleEngine(held=True)
    sleeper = bench.worker(engine, name="sleeper")
    sleeper.admit(wait=False)
    bench.take_over(bench.worker(DoubleEngine(held=True), name="busy"))
    bench.be_due(sleeper)

    sleeper.admit(wait=False)

    assert bench.status(spec, 0) == "started"
    started = open_queue(bench.redis, spec.queue).started_job_registry
    assert started.get_job_count(cleanup=False) == 1
    engine.answer()
    bench.finish(spec, sleeper)
    assert len(engine.asked) == 4, "no row was asked again"
    assert verify(Path(spec.out)).complete
    assert bench.status(spec, 0) == "finished"


def test_a_job_that_another_worker_holds_is_left_to_it(bench: Bench) -> None:
    spec = bench.enqueue(rows=8, shard_size=8)
    bench.redis.lpush(f"rq:queue:{spec.queue}", spec.shard_id(0))
    engine, other = DoubleEngine(held=True), DoubleEngine(held=True)
    holder = bench.worker(engine, name="holder")
    holder.admit(wait=False)

    bench.worker(other, name="other").admit(wait=False)

    assert other.asked == []
    engine.answer()
    bench.finish(spec, holder)
    assert verify(Path(spec.out)).complete


def test_of_two_that_begin_a_job_at_once_one_has_it_in_the_end(bench: Bench) -> None:
    spec = bench.enqueue(rows=8, shard_size=8)
    bench.redis.lpush(f"rq:queue:{spec.queue}", spec.shard_id(0))
    engines = [DoubleEngine(held=True), DoubleEngine(held=True)]
    first, second = workers = [
        bench.worker(engine, name=name) for engine, name in zip(engines, "ab", strict=True)
    ]
    jobs = [dequeue(worker.bookkeeper.queue, None) for worker in workers]
    for worker, job in zip(workers, jobs, strict=True):
        assert job
        worker.flights.start(job)

    def step(worker: BatchWorker, engine: DoubleEngine) -> None:
        bench.be_due(worker)
        bench.stay_steady(worker)
        worker.admit(wait=False)
        engine.answer(1)
        worker.settle()
        worker.bookkeeper.maintenance.take_back_lost()

    for _ in range(3):
        step(first, engines[0])
        step(second, engines[1])

    assert first.flights == {}
    assert len(engines[0].asked) == 8, "it does not take the job back"
    engines[1].answer()
    bench.finish(spec, second)
    assert verify(Path(spec.out)).complete
