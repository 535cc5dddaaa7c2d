"""Where a run stands: by what is held, and with a real worker from its start to its end."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from redis import Redis

from tests.helpers.bench import Bench
from tests.helpers.engines import MODEL, DoubleEngine, wait_for
from tests.helpers.shell import Shell
from tests.helpers.terminal import Terminal
from vllm_mlx.sampling_params import SamplingParams
from worker.status.phase import Phase
from worker.status.standing import Standing
from worker.status.status import RunStatus, run_status


@pytest.fixture
def two_shards(bench: Bench) -> str:
    return bench.enqueue(rows=4, shard_size=2).run_id


def test_a_run_waits_until_a_worker_of_its_model_has_begun_with_it(
    bench: Bench, two_shards: str
) -> None:
    status = run_status(bench.redis, two_shards)
    assert status.standing is Standing.WAITING
    assert status.remark == f"no worker serves {MODEL}; no worker is there"

    bench.worker(DoubleEngine(), model="other/model").tend()
    assert run_status(bench.redis, two_shards).remark.endswith("served: other/model (1)")

    engine = DoubleEngine(held=True)
    worker = bench.worker(engine, name="w")
    with worker._live.loading():
        wait_for(lambda: run_status(bench.redis, two_shards).standing is Standing.STARTING)
    worker.tend()
    status = run_status(bench.redis, two_shards)
    assert (status.standing, list(status.workers)) == (Standing.WAITING, ["w"])
    assert "busy with other runs" in status.remark

    worker.admit(wait=False)
    assert run_status(bench.redis, two_shards).standing is Standing.RUNNING

    engine.answer()
    bench.finish(run_status(bench.redis, two_shards).spec, worker)
    assert run_status(bench.redis, two_shards).standing is Standing.FINISHED


def test_a_run_whose_workers_are_gone_waits_again(bench: Bench, two_shards: str) -> None:
    engine = DoubleEngine(held=True)
    worker = bench.worker(engine, name="w")
    worker.admit(wait=False)
    engine.answer(1)
    worker.settle()
    worker.tend()
    assert run_status(bench.redis, two_shards).standing is Standing.RUNNING

    bench.redis.delete("mlx-batch:live:w")  # as 15 seconds after it was killed
    status = run_status(bench.redis, two_shards)
    assert (status.standing, status.rows_done) == (Standing.WAITING, 1)
    assert "no worker serves" in status.remark


def test_a_run_fails_while_more_of_it_is_under_way_and_has_failed_after(
    bench: Bench, two_shards: str
) -> None:
    worker = bench.worker(DoubleEngine(held=True), name="w")
    worker.admit(wait=False)
    worker.tend()
    first, second = list(worker.flights.values())
    fail = partial(worker.bookkeeper.fail, error=OSError("full"), retry=False)

    worker.flights.end(first, fail)
    assert run_status(bench.redis, two_shards).standing is Standing.FAILING
    worker.flights.end(second, fail)

    status = run_status(bench.redis, two_shards)
    assert (status.standing, status.standing.is_over) == (Standing.FAILED, True)
    assert list(status.reasons) == ["OSError: full"]
    assert len(status.errors) == 2


def test_a_run_of_which_nothing_is_queued_is_interrupted(bench: Bench, two_shards: str) -> None:
    bench.redis.delete(f"rq:queue:mlx-{MODEL}")

    status = run_status(bench.redis, two_shards)

    assert (status.standing, status.standing.is_over) == (Standing.INTERRUPTED, True)
    assert f"mlx-batch resume {two_shards}" in status.remark


def test_the_last_job_of_a_run_is_part_of_it(bench: Bench, two_shards: str) -> None:
    """While it waits or runs, all shards are done and none is under way."""
    worker = bench.worker(DoubleEngine())
    worker.admit(wait=False)
    worker.settle()
    worker.tend()

    status = run_status(bench.redis, two_shards)

    assert (status.shards["done"], status.is_finalizing) == (2, True)
    assert status.standing is Standing.RUNNING


def test_a_worker_says_what_it_loads_how_it_runs_and_what_waits(bench: Bench, shell: Shell) -> None:
    spec = bench.enqueue(rows=2, shard_size=1, n=2, sampling=SamplingParams.of(max_tokens=4))
    words = ["worker", "--model", MODEL, "-u", bench.url, "--burst"]
    terminal = shell.open(*words, "--output-root", bench.folder)
    try:
        seen = _standings(bench.redis, spec.run_id, terminal)
        code, log = terminal.finish(), terminal.text
    finally:
        terminal.process.kill()
        terminal.close()

    assert code == 0, log
    assert seen[0].standing is Standing.WAITING
    (loading,) = {said.phase for each in seen for said in each.workers.values()} & {Phase.LOADING}
    assert loading is Phase.LOADING
    assert {Standing.STARTING, Standing.RUNNING} <= {each.standing for each in seen}
    roots = {said.output_root for each in seen for said in each.workers.values()}
    assert roots == {str(bench.folder.resolve())}
    assert run_status(bench.redis, spec.run_id).is_finished
    told = [line.partition("mlx_batch.worker: ")[2] or line for line in log.splitlines()]
    said = "\n".join(told)
    assert f"loading {MODEL}" in said
    assert f"{MODEL} is loaded and runs in slots, 30 x keys and values" in said
    assert f"listening on the queue mlx-{MODEL}, where 4 jobs wait" in said
    assert Path(spec.out, "_SUCCESS").exists()


def _standings(redis: Redis, run_id: str, worker: Terminal) -> list[RunStatus]:
    seen: list[RunStatus] = []

    def has_ended() -> bool:
        status = run_status(redis, run_id)
        if not seen or status.standing is not seen[-1].standing:
            seen.append(status)
        return worker.process.poll() is not None

    wait_for(has_ended, timeout=240)  # it loads a model, beside whatever else runs here
    return seen
