"""A Redis at its `maxmemory`, with the policy that evicts nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.harness import FULL, Stage, Undisturbed, mlx_batch, prompts
from tests.helpers.engines import MODEL

ROWS = 500
INFRASTRUCTURE = 3


def enqueue(stage: Stage, rows: int, out: Path) -> tuple[int, str]:
    source = prompts(stage.folder / f"{rows}.jsonl", rows)
    told = mlx_batch("enqueue", source, "--model", MODEL, "--out", out, url=stage.server.url)
    return told.returncode, told.stderr


def test_a_producer_is_refused_and_told_why(stage: Stage) -> None:
    with stage.server.client() as redis:
        used = redis.info("memory")["used_memory"]
    stage.server.limit_memory(used + 500_000)

    code, said = enqueue(stage, 20_000, stage.folder / "out")

    assert code == INFRASTRUCTURE
    assert "memory" in said
    assert "maxmemory" in said
    assert "Traceback" not in said
    stage.server.limit_memory(0)
    words = ["enqueue", stage.folder / "20000.jsonl", "--model", MODEL]
    words += ["--out", stage.folder / "out", "--resume"]
    assert mlx_batch(*words, url=stage.server.url).returncode == 0


@pytest.mark.parametrize("seconds", [6, pytest.param(30, marks=pytest.mark.full)])
def test_workers_keep_what_they_have_until_there_is_memory(
    stage: Stage, undisturbed: Undisturbed, seconds: int
) -> None:
    spec = stage.enqueue(ROWS)
    workers = [stage.start(), stage.start()]
    stage.wait_for_rows("answered", 100)
    stage.server.limit_memory(1)
    time.sleep(seconds)
    assert [worker.is_alive for worker in workers] == [True, True]
    assert "memory" in workers[0].said
    stage.server.limit_memory(0)

    stage.finish(spec)

    stage.check(spec, undisturbed(ROWS))
    assert stage.generated_again() == 0, "both workers held what they had"
    assert [worker.is_alive for worker in workers] == [True, True]


@pytest.mark.skipif(not FULL, reason="only with FAULTS=full")
def test_a_worker_told_to_end_while_there_is_no_memory_ends(
    stage: Stage, undisturbed: Undisturbed
) -> None:
    import signal

    spec = stage.enqueue(ROWS)
    worker = stage.start("--grace", 2)
    stage.wait_for_rows("answered", 50)
    stage.server.limit_memory(1)
    time.sleep(2)
    worker.signal(signal.SIGTERM)
    worker.wait(timeout=20)
    stage.server.limit_memory(0)
    stage.start("--burst", delay=0.02)

    stage.finish(spec)
    stage.check(spec, undisturbed(ROWS))
