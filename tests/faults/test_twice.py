"""Two that do the same at once: one wins, the other says why."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from jobs.ledger import Ledger
from tests.faults.harness import Stage, Undisturbed, known_workers, prompts
from tests.helpers.engines import MODEL, wait_for

BAD_INPUT, CONFLICT = 2, 6
ROWS = 200


def test_two_enqueue_the_same_run(stage: Stage, undisturbed: Undisturbed) -> None:
    source = prompts(stage.folder / "prompts.jsonl", ROWS)
    words = ["enqueue", source, "--model", MODEL, "--out", stage.folder / "out"]
    words += ["--shard-size", 50, "--temperature", 0, "-u", stage.server.url]
    command = [sys.executable, "-m", "worker.cli", *map(str, words)]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]

    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, CONFLICT]
    (run_id,) = [out.split()[-1] for (out, _), code in zip(said, codes, strict=True) if not code]
    (why,) = [err for (_, err), code in zip(said, codes, strict=True) if code]
    assert f"{run_id} was enqueued before" in why
    assert "Traceback" not in why
    with stage.server.client() as redis:
        spec = Ledger(redis).spec(run_id)
    stage.start("--burst", delay=0)
    stage.finish(spec)
    stage.check(spec, undisturbed(ROWS))
    assert stage.generated_again() == 0


def test_two_workers_of_one_name(stage: Stage, undisturbed: Undisturbed) -> None:
    spec = stage.enqueue(ROWS)
    first = stage.start(name="same")
    stage.wait_for_rows("answered", 1)

    second = stage.start(name="same")

    assert second.wait(timeout=60) == BAD_INPUT
    assert "same" in second.said
    assert "Traceback" not in second.said
    assert first.is_alive
    with stage.server.client() as redis:
        assert known_workers(redis, spec) == ["same"]
    stage.finish(spec)
    stage.check(spec, undisturbed(ROWS))
    assert stage.generated_again() == 0


def test_the_name_of_a_killed_worker_is_free_again(stage: Stage, undisturbed: Undisturbed) -> None:
    """Its successor, started by a service manager, must not give up for good."""
    spec = stage.enqueue(ROWS)
    stage.start(name="same")
    stage.wait_for_rows("answered", 1)
    stage.workers[0].kill()

    def starts() -> bool:
        worker = stage.start(name="same")
        wait_for(lambda: not worker.is_alive or stage.rows("asked", worker))
        return worker.is_alive

    wait_for(starts)
    stage.finish(spec)
    stage.check(spec, undisturbed(ROWS))


def test_two_finalizers(stage: Stage, undisturbed: Undisturbed) -> None:
    """The first falls asleep as it writes the mark, the second is done when it wakes."""
    spec = stage.enqueue(ROWS)
    sleeper = stage.start(delay=0, FAULT="stop:before_success_file")
    wait_for(lambda: sleeper.is_stopped)
    assert not (Path(spec.out) / "_SUCCESS").exists()
    stage.start(delay=0)
    stage.finish(spec)

    sleeper.signal(signal.SIGCONT)
    wait_for(lambda: "taken over" in sleeper.said)

    assert sleeper.is_alive
    stage.check(spec, undisturbed(ROWS))
