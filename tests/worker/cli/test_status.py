"""`status --watch`: how it ends; mean speed and time left. The rest: `test_run_commands`."""

from __future__ import annotations

import json
from functools import partial

import pytest

from jobs.pause import pause_run
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import DoubleEngine, echo, wait_for
from tests.helpers.shell import Shell
from vllm_mlx.outputs import GenerationOutput
from worker.cli import status as command
from worker.cli.exit_codes import ExitCode
from worker.local.run_display import clock
from worker.status.status import run_status


def watched(bench: Bench, spec: RunSpec) -> int:
    return cli("status", spec.run_id, "-u", bench.url, "--watch").exit_code


def refuse(_: object) -> GenerationOutput:
    raise ValueError("no")


def test_a_watch_ends_with_what_came_of_the_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "LOOK", 0.0)

    finished = bench.enqueue(rows=2, shard_size=2, say="fine")
    bench.burst(DoubleEngine())
    assert watched(bench, finished) == ExitCode.OK

    in_error = bench.enqueue(rows=2, shard_size=2, say="bad")
    bench.burst(DoubleEngine(say=refuse))
    assert watched(bench, in_error) == ExitCode.NOTHING_SUCCEEDED

    failed = bench.enqueue(rows=2, shard_size=2, say="failed")
    worker = bench.worker(DoubleEngine(held=True))
    worker.admit(wait=False)
    fail = partial(worker.bookkeeper.fail, error=OSError("full"), retry=False)
    worker.flights.end(worker.flights[failed.shard_id(0)], fail)
    assert watched(bench, failed) == ExitCode.FAILED

    paused = bench.enqueue(rows=2, shard_size=2, say="paused")
    pause_run(bench.redis, paused.run_id)
    assert watched(bench, paused) == ExitCode.HALTED

    lost = bench.enqueue(rows=2, shard_size=2, say="lost")
    bench.redis.delete(f"rq:queue:{lost.queue}")
    assert watched(bench, lost) == ExitCode.FAILED
    looks = cli("status", lost.run_id, "-u", bench.url, "--watch", "--json").stdout.splitlines()
    assert len(looks) == command.LOOKS, "its producer may have been at work"


def test_status_tells_the_mean_speed_and_the_time_left(bench: Bench) -> None:
    spec = bench.enqueue(rows=8, shard_size=4)
    engine = DoubleEngine(held=True, say=echo)
    worker = bench.worker(engine, name="w")
    worker.admit(wait=False)
    key = f"mlx-batch:run:{spec.run_id}:stretch"
    claims = f"mlx-batch:run:{spec.run_id}:leases"
    bench.redis.hincrby(key, "at", -60)  # a minute after somebody was at it
    bench.redis.hincrby(claims, "0:since", -10)  # ten seconds later
    engine.answer(4)
    worker.settle()
    worker.tend()

    status = run_status(bench.redis, spec.run_id)
    assert 10 <= status.stretch.seconds <= 12
    assert status.stretch.output_tokens == 8
    assert status.stretch.tokens_per_second == pytest.approx(0.8, abs=0.15)
    said = json.loads(cli("status", spec.run_id, "-u", bench.url, "--json").stdout)
    speed = status.tokens_per_second or status.stretch.tokens_per_second
    assert said["seconds_left"] == round(4 * 2 / speed)
    shown = cli("status", spec.run_id, "-u", bench.url, env={"COLUMNS": "80"}).stdout
    assert "4 of 8 (50 %)" in shown
    assert f"tokens/s in {clock(status.stretch.seconds)} at work" in shown
    assert "about" in shown

    bench.redis.hincrby(claims, "0:since", -7 * 24 * 3600)
    bench.redis.hincrby(key, "at", -7 * 24 * 3600)  # a week without a worker
    engine.answer()
    worker.settle()
    assert run_status(bench.redis, spec.run_id).stretch.seconds < 400


def test_a_watch_in_a_terminal_of_80_columns(bench: Bench, shell: Shell) -> None:
    spec = bench.enqueue(rows=6, shard_size=2)
    terminal = shell.open("status", spec.out, "-u", bench.url, "--watch")
    try:
        wait_for(lambda: "no worker serves" in terminal.text)
        bench.burst(DoubleEngine(say=lambda row: refuse(row) if "3" in row else echo(row)))
        assert terminal.finish() == ExitCode.OK
    finally:
        terminal.process.kill()
        terminal.close()
    lines = terminal.text.splitlines()
    assert max(map(len, lines)) <= 80
    *_, last = [line for line in lines if "rows" in line]
    assert "6 of 6 (100 %), 1 in error: 1 ValueError" in last
    assert any("finished" in line for line in lines)
