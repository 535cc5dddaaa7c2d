"""Long runs: memory stays flat, and nothing is left lying about. `make soak` runs this alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from jobs.ledger import Ledger
from tests.faults.harness import Stage, left_in_rq
from tests.helpers.engines import enqueue as enqueue_prompts
from vllm_mlx.sampling_params import SamplingParams

pytestmark = pytest.mark.full

ROWS, WARM = 20_000, 2_000
TINY = Path(__file__).parents[2] / "examples" / "tiny_vlm" / "model"
MB = 1 << 20


def resident(pid: int) -> int:
    """Bytes that a process and its children hold in memory."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,rss="], capture_output=True, text=True)
    rows = [list(map(int, line.split())) for line in listed.stdout.splitlines()]
    return sum(rss * 1024 for own, parent, rss in rows if pid in (own, parent))


def used(redis: Redis) -> int:
    return int(redis.info("memory")["used_memory"])


class Memory:
    """What worker and Redis hold after the first rows, and at the end."""

    def __init__(self, redis: Redis, pid: int, rows_done: Callable[[], int]) -> None:
        self._redis, self._pid, self._rows_done = redis, pid, rows_done

    def watch(self, timeout: float) -> tuple[tuple[int, int], tuple[int, int]]:
        warm = self._at(WARM, timeout)
        return warm, self._at(ROWS * 19 // 20, timeout)

    def _at(self, rows: int, timeout: float) -> tuple[int, int]:
        deadline = time.monotonic() + timeout
        while self._rows_done() < rows:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return resident(self._pid), used(self._redis)


def is_flat(before: int, after: int) -> bool:
    return after <= before * 1.1 + 20 * MB


def executions(redis: Redis) -> list[bytes]:
    """Every trace of a job that somebody works on."""
    patterns = ("rq:execution:*", "rq:executions:*", "rq:worker*:executions*", "rq:workers:*exec*")
    return [key for pattern in patterns for key in redis.scan_iter(pattern)]


@pytest.mark.parametrize("engine", ["double", "tiny model"])
def test_a_soak(
    stage: Stage, tmp_path: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with stage.server.client() as redis:
        if engine == "double":
            spec = stage.enqueue(ROWS, shard_size=100)
            pid = stage.start(delay=0.02).pid
            stop = stage.workers[0].kill
        else:
            sampling = SamplingParams.of(temperature=0, max_tokens=4)
            options = {"model": str(TINY), "chat": True, "sampling": sampling}
            spec = enqueue_prompts(redis, tmp_path, ROWS, 100, say="Hello", **options)
            words = ["--model", TINY, "--output-root", tmp_path]
            command = [sys.executable, "-m", "worker.cli", "worker", *map(str, words)]
            environment = {**os.environ, "RQ_REDIS_URL": stage.server.url}
            with (tmp_path / "tiny.out").open("wb") as output:
                process = subprocess.Popen(command, stderr=output, stdout=output, env=environment)
            pid = process.pid

            def stop() -> None:
                process.kill()
                process.wait()

        def rows_done() -> int:
            progress = Ledger(redis).progress(spec.run_id)
            return progress.done.rows + progress.partial.rows

        try:
            warm, end = Memory(redis, pid, rows_done).watch(timeout=3000)
            while left_in_rq(redis, spec):
                time.sleep(0.5)
        finally:
            stop()
        with capsys.disabled():
            for name, before, after in zip(("worker", "redis"), warm, end, strict=True):
                print(f"\n{engine}: {name} {before / MB:.1f} MB, then {after / MB:.1f} MB")
        assert all(map(is_flat, warm, end))
        assert executions(redis) == []
        assert not redis.keys("mlx-batch:run:*:rows:*"), "no row of a finished shard is left"
