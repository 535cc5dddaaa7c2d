"""`mlx-batch status`: what is printed of runs. The commands that change one: `test_row_ledger`."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import pytest

from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import MODEL, DoubleEngine, write_prompts
from tests.helpers.shell import Shell
from vllm_mlx.outputs import GenerationOutput
from worker.cli.exit_codes import ExitCode
from worker.status.status import run_status


def test_status_of_an_unknown_run(redis_url: str) -> None:
    result = cli("status", "run-nowhere", "-u", redis_url)

    assert result.exit_code == 2
    assert "run-nowhere" in result.stderr


def test_status_without_runs(redis_url: str) -> None:
    result = cli("status", "-u", redis_url)

    assert (result.exit_code, result.stdout) == (0, "")
    assert "no runs" in result.stderr


@pytest.mark.usefixtures("two_batches")
def test_status_as_json(bench: Bench) -> None:
    spec = bench.enqueue(rows=6, shard_size=2)
    engine = DoubleEngine(max_num_seqs=1, held=True)
    worker = bench.worker(engine, name="w")
    worker.admit(wait=False)
    engine.answer(1)
    worker.settle()
    worker.tend()

    result = cli("status", spec.run_id, "-u", bench.url, "--json")

    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert said == run_status(bench.redis, spec.run_id).as_dict()
    assert said["state"] == "running"
    assert (said["rows"], said["rows_done"], said["rows_error"]) == (6, 1, 0)
    shards = said["shards"]
    assert (shards["total"], shards["queued"], shards["started"], shards["done"]) == (3, 2, 1, 0)
    assert list(said["workers"]) == ["w"]


def test_status_lists_every_run_newest_first(bench: Bench) -> None:
    first = bench.enqueue(rows=2, shard_size=2, say="first")
    second = bench.enqueue(rows=2, shard_size=2, say="second", model="other/model")

    lines = cli("status", "-u", bench.url, "--json").stdout.splitlines()

    assert [json.loads(line)["run_id"] for line in lines] == [second.run_id, first.run_id]


def test_status_for_people(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=2)
    worker = bench.worker(DoubleEngine(held=True))
    worker.admit(wait=False)
    error = RuntimeError("[/INST] is no markup, [bold] neither")
    fail = partial(worker.bookkeeper.fail, error=error, retry=False)
    worker.flights.end(worker.flights[spec.shard_id(0)], fail)

    words = ["status", spec.run_id, "-u", bench.url]
    result = cli(*words, env={"COLUMNS": "200"})

    assert result.exit_code == 0
    assert spec.run_id in result.stdout
    assert "1 started, 1 failed of 2" in result.stdout
    assert "RuntimeError: [/INST] is no markup, [bold] neither" in result.stdout
    assert "failing: every job that has ended has failed" in result.stdout
    assert "tokens/s on 0 workers" in result.stdout
    worker.tend()
    assert "on 1 worker " in cli(*words, env={"COLUMNS": "200"}).stdout


def test_status_tells_a_reason_once(bench: Bench, shell: Shell) -> None:
    spec = bench.enqueue(rows=9, shard_size=1)
    worker = bench.worker(DoubleEngine(max_num_seqs=8, held=True))
    worker.admit(wait=False)
    for flight in list(worker.flights.values()):
        fail = partial(worker.bookkeeper.fail, error=OSError("no space left"), retry=False)
        worker.flights.end(flight, fail)

    _, shown = shell.run("status", spec.run_id, "-u", bench.url)

    assert "failed: when the reason is gone: mlx-batch resume" in " ".join(shown.split())
    assert shown.count("OSError: no space left") == 1
    assert "9 failed of 9" in shown
    assert "9 jobs; each reason" in shown


def test_status_lists_all_runs_in_a_terminal_of_80_columns(bench: Bench, shell: Shell) -> None:
    done = bench.enqueue(rows=3, shard_size=2, say="done")
    bench.finish(done, bench.worker(DoubleEngine()))
    waits = bench.enqueue(rows=4, shard_size=2, say="waits", model="other/model")

    head, *lines = shell.run("status", "-u", bench.url)[1].splitlines()

    assert head.split() == ["run", "state", "rows", "in", "error", "dataset"]
    assert all(len(line) <= 80 for line in lines)
    first, *_ = [line for line in lines if waits.run_id in line]
    assert first.split()[:6] == [waits.run_id, "waiting", "0", "%", "0/4", "0"]
    second, *_ = [line for line in lines if done.run_id in line]
    assert second.split()[:6] == [done.run_id, "finished", "100", "%", "3/3", "0"]


def test_a_run_of_which_nothing_is_under_way_but_failed_shards_has_failed(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine(held=True), name="w")
    worker.admit(wait=False)
    fail = partial(worker.bookkeeper.fail, error=RuntimeError("on purpose"), retry=False)
    worker.flights.end(worker.flights[spec.shard_id(0)], fail)
    worker.tend()

    words = ["status", spec.run_id, "-u", bench.url, "--watch"]  # which ends
    said = json.loads(cli(*words, "--json").stdout)
    shown = cli(*words, env={"COLUMNS": "200"}).stdout

    assert (said["state"], said["workers"]) == ("failed", {})
    assert "failed" in shown
    assert "tokens/s" not in shown


def test_a_finished_run_shows_no_workers_of_its_queue(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine(), name="w")
    bench.finish(spec, worker)
    worker.tend()

    said = json.loads(cli("status", "-u", bench.url, "--json").stdout)
    shown = cli("status", spec.run_id, "-u", bench.url, env={"COLUMNS": "200"}).stdout

    assert (said["state"], said["workers"], said["tokens_per_second"]) == ("finished", {}, 0)
    assert "worker" not in shown
    assert "tokens/s" not in shown


def test_status_goes_on_when_a_finished_run_is_forgotten(bench: Bench) -> None:
    old = bench.enqueue(rows=2, shard_size=2, say="old")
    bench.redis.delete(f"mlx-batch:run:{old.run_id}")  # as after 30 days
    new = bench.enqueue(rows=2, shard_size=2, say="new")

    result = cli("status", "-u", bench.url, "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["run_id"] == new.run_id


def test_status_watches_until_the_run_is_finished(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    words = [sys.executable, "-m", "worker.cli", "status", spec.run_id, "-u", bench.url]
    with subprocess.Popen([*words, "--json", "--watch"], stdout=subprocess.PIPE, text=True) as told:
        try:
            assert told.stdout is not None
            assert json.loads(told.stdout.readline())["state"] == "waiting"
            bench.burst(DoubleEngine())
            assert run_status(bench.redis, spec.run_id).is_finished
            *_, last = told.stdout
            told.wait(timeout=10)
        finally:
            told.kill()
    assert told.returncode == 0
    assert json.loads(last)["state"] == "finished"


def test_a_run_is_paused_halted_mended_and_finished_from_a_terminal(
    bench: Bench, shell: Shell
) -> None:
    def mlx_batch(*words: object) -> str:
        code, said = shell.run(*words, RQ_REDIS_URL=bench.url)
        assert code == ExitCode.OK, said
        return " ".join(said.replace("│", " ").split())

    out, prompts = bench.folder / "out", write_prompts(bench.folder / "p.jsonl", 9)
    words = ["enqueue", prompts, "--model", MODEL, "--out", out, "--limit", 8, "--shard-size", 4]
    said = mlx_batch(*words, "--max-errors", "20%")
    assert "8 rows; 2 of 2 shards enqueued" in said
    assert f"warning: no worker listens for {MODEL}" in said
    run_id = said.split()[-1]
    assert f"no worker serves {MODEL}; no worker is there" in mlx_batch("status", run_id)

    assert f"{run_id} is paused" in mlx_batch("pause", run_id)
    assert f"{run_id} paused 0 % 0/8" in mlx_batch("status")
    assert "shards enqueued" in mlx_batch("continue", run_id)

    def refuse(prompt: str) -> GenerationOutput:
        raise ValueError("no")

    bench.burst(DoubleEngine(max_num_seqs=1, say=refuse))
    said = mlx_batch("status", run_id)
    assert "halted: 2 rows are in error, and no more than 20% may be (max_errors)" in said
    assert "2 of 8 (25 %), 2 in error: 2 ValueError" in said

    mlx_batch("continue", run_id)
    bench.burst(DoubleEngine())
    code, said = shell.run("retry", run_id, "--errors", "--type", "Nope", RQ_REDIS_URL=bench.url)
    assert (code, "types there are: ValueError (2)" in said) == (ExitCode.BAD_INPUT, True), said
    assert "2 rows to be tried again" in mlx_batch("retry", out, "--errors")
    bench.burst(DoubleEngine())
    assert "8 of 8 (100 %), 0 in error" in mlx_batch("status", out, "--watch")
    assert f"{run_id} and 3 jobs are forgotten" in mlx_batch("forget", run_id)
