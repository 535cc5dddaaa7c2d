"""Workers of one model share its jobs, whoever of them was there first."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.dataset
import pytest
from redis import Redis

from jobs.dataset import verify
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.engines import DoubleEngine, wait_for
from vllm_mlx.sampling_params import SamplingParams
from worker.status.live import Live
from worker.status.serving import workers_of
from worker.status.status import run_status


def test_who_comes_late_gets_what_the_first_has_not_begun(bench: Bench) -> None:
    spec = bench.enqueue(rows=64, shard_size=8)
    engines = [DoubleEngine(max_num_seqs=32, held=True) for _ in range(2)]
    first = bench.worker(engines[0], name="first")
    bench.step(first)
    assert len(first.flights) == 8

    second = bench.worker(engines[1], name="second")
    bench.step(second, first, second)

    assert (len(first.flights), len(second.flights)) == (4, 4)
    assert not {*first.flights} & {*second.flights}
    for _ in range(3):
        bench.step(first, second)
    assert (len(first.flights), len(second.flights)) == (4, 4), "nothing goes to and fro"

    def is_finished() -> bool:
        for engine in engines:
            engine.answer()
        bench.step(first, second)
        return run_status(bench.redis, spec.run_id).is_finished

    wait_for(is_finished)
    answered = Counter(
        row.prompt for engine in engines for row in engine.asked if not row.future.cancelled()
    )
    assert set(answered.values()) == {1}, "no row is answered twice"
    assert verify(Path(spec.out)).complete


def test_rows_that_were_begun_end_where_they_are_and_the_rest_of_their_job_moves(
    bench: Bench,
) -> None:
    bench.enqueue(rows=16, shard_size=8)
    engines = [DoubleEngine(max_num_seqs=12, held=True) for _ in range(2)]
    first = bench.worker(engines[0], name="first")
    bench.step(first)

    second = bench.worker(engines[1], name="second")
    bench.step(second, first, second)
    assert (len(first.flights), len(second.flights)) == (2, 0), "four rows of a job are begun"
    engines[0].answer(of="prompt 8")
    engines[0].answer(of="prompt 9")
    engines[0].answer(of="prompt 1")  # 10 and 11 among them
    bench.step(first, second)

    assert (len(first.flights), len(second.flights)) == (1, 1)
    assert sorted(engines[1].prompts) == ["prompt 12", "prompt 13", "prompt 14", "prompt 15"]


def test_workers_that_are_there_share_though_one_could_hold_all(bench: Bench) -> None:
    bench.enqueue(rows=32, shard_size=4)
    workers = [
        bench.worker(DoubleEngine(max_num_seqs=32, held=True), name=name) for name in ("a", "b")
    ]
    for worker in workers:
        worker.tend()  # each says that it has nothing

    bench.step(*workers)

    assert [len(worker.flights) for worker in workers] == [4, 4]


def test_a_worker_that_loads_keeps_nobody_from_work(bench: Bench) -> None:
    bench.enqueue(rows=32, shard_size=4)
    loading = bench.worker(DoubleEngine(), name="loading")
    with loading._live.loading():
        wait_for(lambda: Live.of(bench.redis, ["loading"]))
        first = bench.worker(DoubleEngine(max_num_seqs=32, held=True), name="first")
        bench.step(first, first)
        assert len(first.flights) == 8


@pytest.mark.slow
def test_two_real_workers_share_eight_shards(bench: Bench, text_folder: str) -> None:
    sampling = SamplingParams.of(max_tokens=150, ignore_eos=True)
    spec = bench.enqueue(rows=64, shard_size=8, model=text_folder, sampling=sampling)
    command = [sys.executable, "-m", "worker.cli", "worker", "--model", text_folder, "--burst"]
    command += ["-u", bench.url, "--max-num-seqs", "4", "--output-root", str(bench.folder)]
    workers = [subprocess.Popen([*command, "--name", name]) for name in ("one", "two")]
    over: list[str] = []
    try:
        wait_for(lambda: _watch(bench.redis, spec, over), timeout=90)
        assert [worker.wait(timeout=30) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()

    assert over == [], "never more rows in a batch than it has places"
    assert verify(Path(spec.out)).complete
    table = pyarrow.dataset.dataset(f"{spec.out}/data", format="parquet").to_table()
    shards: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for row, worker in zip(table["row"].to_pylist(), table["worker"].to_pylist(), strict=True):
        shards[row // 8][worker] += 1
    mostly = Counter(each.most_common(1)[0][0] for each in shards.values())
    assert min(mostly["one"], mostly["two"]) >= 2, mostly


def _watch(redis: Redis, spec: RunSpec, over: list[str]) -> bool:
    for name, said in workers_of(redis, spec.queue).items():
        if said.max_num_seqs and said.running > said.max_num_seqs:
            over.append(f"{name}: {said}")
    return run_status(redis, spec.run_id).is_finished


def test_a_worker_that_is_to_end_begins_no_more_rows_and_gives_back_what_is_not_begun(
    bench: Bench,
) -> None:
    spec = bench.enqueue(rows=24, shard_size=8)
    engine = DoubleEngine(max_num_seqs=12, held=True)
    worker = bench.worker(engine, name="w", grace=60)

    def has_all() -> bool:
        bench.step(worker)
        return len(worker.flights) == 3

    wait_for(has_all)

    worker.stop_signal.request(signal.SIGTERM)
    bench.step(worker)
    assert (len(engine.open), len(worker.flights)) == (12, 2), "all of one, and half of another"
    assert bench.status(spec, 2) == "queued"
    assert not worker._is_over(burst=False), "rows are under way"

    engine.answer()
    bench.step(worker)
    bench.step(worker)

    assert worker._is_over(burst=False), "long before its grace is over"
    assert [bench.status(spec, shard) for shard in range(3)] == ["finished", "queued", "queued"]
    assert run_status(bench.redis, spec.run_id).rows_done == 12, "what was begun is recorded"
    assert bench.redis.lrange(f"rq:queue:{spec.queue}", 0, -1) == [
        spec.shard_id(shard).encode() for shard in (1, 2)
    ]
