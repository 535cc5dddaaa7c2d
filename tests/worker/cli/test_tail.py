"""`tail`: the last rows of a run that has ended, and the last and next ones of one that has not."""

from __future__ import annotations

import subprocess
import sys

from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import DoubleEngine, wait_for
from worker.cli.exit_codes import ExitCode


def ids(said: str) -> list[str]:
    return [line.partition(":")[0] for line in said.splitlines()]


def test_the_last_rows_of_a_finished_run_are_those_that_ended_last(bench: Bench) -> None:
    spec = bench.enqueue(rows=6, shard_size=3)
    engine = DoubleEngine(held=True, max_num_seqs=8)
    worker = bench.worker(engine)
    worker.admit(wait=False)
    for number in (4, 5, 3, 0, 2, 1):
        engine.answer(of=f"prompt {number}")
        worker.settle()
    bench.finish(spec, worker)

    assert ids(cli("tail", spec.run_id, "-u", bench.url, "-n", 3).stdout) == ["r0", "r2", "r1"]
    assert len(ids(cli("tail", spec.run_id, "-u", bench.url).stdout)) == 6
    assert cli("tail", spec.run_id, "-u", bench.url, "-n", 0).stdout == ""
    assert ids(cli("tail", spec.out, "-n", 2).stdout) == ["r2", "r1"]


def test_a_run_that_goes_on_is_followed_to_its_end(bench: Bench) -> None:
    spec = bench.enqueue(rows=6, shard_size=3)
    engine = DoubleEngine(held=True, max_num_seqs=8)
    worker = bench.worker(engine)
    worker.admit(wait=False)
    engine.answer(4)  # a shard that is in the folder, and a row that is not
    worker.settle()
    worker.tend()
    command = [sys.executable, "-m", "worker.cli", "tail", spec.out, "-u", bench.url, "-n", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tail:
        try:
            assert tail.stdout is not None
            assert ids(tail.stdout.readline() + tail.stdout.readline()) == ["r2", "r3"]
            engine.answer()
            bench.finish(spec, worker)
            assert ids(tail.stdout.read()) == ["r4", "r5"]
            wait_for(lambda: tail.poll() is not None)
        finally:
            tail.kill()
    assert tail.returncode == ExitCode.OK
