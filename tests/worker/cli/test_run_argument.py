"""RUN as a dataset's folder: with the Redis that is given, with its own, and with none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.connection import connect
from jobs.dataset import verify
from jobs.ledger import Ledger
from jobs.pause import pause_run
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench, work_in_burst
from tests.helpers.command_line import cli
from tests.helpers.engines import DoubleEngine, echo, enqueue
from vllm_mlx.outputs import GenerationOutput
from worker.cli.exit_codes import ExitCode
from worker.local.embedded_redis import EmbeddedRedis


@pytest.fixture(autouse=True)
def no_redis_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RQ_REDIS_URL", raising=False)


def half_bad(prompt: str) -> GenerationOutput:
    if prompt == "prompt 1":
        raise ValueError("not this one")
    return echo(prompt)


def half_done(bench: Bench, **options: Any) -> RunSpec:
    spec = bench.enqueue(rows=6, shard_size=2, **options)
    engine = DoubleEngine(held=True, max_num_seqs=8)
    worker = bench.worker(engine)
    worker.admit(wait=False)
    engine.answer(3)
    worker.settle()
    return spec


def test_a_folder_stands_for_its_run_on_the_server_that_is_given(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=2)
    words = ("status", spec.out, "-u", bench.url, "--json")
    assert json.loads(cli(*words).stdout)["state"] == "waiting", "before a worker has seen it"

    bench.burst(DoubleEngine(say=half_bad))
    told = json.loads(cli("status", spec.run_id, "-u", bench.url, "--json").stdout)
    assert json.loads(cli(*words).stdout) == told
    assert told["state"] == "finished"
    for server in ((), ("-u", bench.url)):  # the folder alone knows it, too
        shown = cli("status", spec.out, *server).stdout
        assert "4 of 4 (100 %), 1 in error: 1 ValueError" in shown
    assert json.loads(cli("status", spec.out, "--json").stdout)["error_types"] == {"ValueError": 1}

    here = ("--workers", 2, "--on-finish", "true", "--strict")
    refused = cli("retry", spec.out, "-u", bench.url, "--errors", *here)
    assert (
        "--workers, --on-finish, --strict: only where RUN goes on in its folder" in refused.stderr
    )
    retried = cli("retry", spec.out, "-u", bench.url, "--errors")
    assert (retried.exit_code, retried.stdout.strip()) == (0, spec.run_id)
    assert "1 row to be tried again" in retried.stderr
    bench.burst(DoubleEngine())
    resumed = cli("resume", spec.out, "-u", bench.url)
    assert (resumed.exit_code, resumed.stdout.strip()) == (0, spec.run_id)
    assert cli("forget", spec.out, "-u", bench.url).exit_code == 0
    assert Ledger(bench.redis).runs() == []


def test_without_a_server_the_folder_says_what_it_can(bench: Bench) -> None:
    spec = half_done(bench)

    status = cli("status", spec.out, env={"COLUMNS": "80"})
    said = json.loads(cli("status", spec.out, "--json").stdout)
    rows = cli("tail", spec.out)

    assert status.exit_code == 0
    words = " ".join(status.stdout.replace("│", " ").split())
    assert "unknown: told from its folder alone, as no Redis" in words
    assert (said["rows"], said["rows_done"]) == (6, 2)
    assert (said["shards"]["done"], said["shards"]["missing"]) == (1, 2)
    assert [line.partition(":")[0] for line in rows.stdout.splitlines()] == ["r0", "r1"]
    assert cli("status", spec.out, "--watch").exit_code == ExitCode.NOT_WHOLE


@pytest.mark.parametrize("words", [("resume",), ("retry", "--errors"), ("forget",), ("pause",)])
def test_what_a_folder_alone_can_not_do_is_said(bench: Bench, words: tuple[str, ...]) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    bench.burst(DoubleEngine())
    command, *more = words

    result = cli(command, spec.out, *more)

    assert result.exit_code == ExitCode.BAD_INPUT
    assert f"{spec.run_id}, which no Redis that is given knows" in result.stderr
    assert f"`mlx-batch {command}` needs the one that it was enqueued on" in result.stderr


def test_a_server_learns_of_a_run_from_its_folder(bench: Bench) -> None:
    """That of `mlx-batch run` ends with the run, and the folder may be moved."""
    spec = bench.enqueue(rows=6, shard_size=2)
    bench.burst(DoubleEngine(say=half_bad))
    moved = Path(spec.out).rename(bench.folder / "moved")
    bench.redis.flushall()

    result = cli("retry", moved, "-u", bench.url, "--errors")

    assert (result.exit_code, result.stdout.strip()) == (0, spec.run_id)
    assert "1 of 3 shards enqueued" in result.stderr
    engine = DoubleEngine()
    bench.burst(engine)
    assert engine.prompts == ["prompt 1"]
    assert verify(moved).ok == 6
    status = json.loads(cli("status", moved, "-u", bench.url, "--json").stdout)
    assert (status["state"], status["rows_done"], status["rows_error"]) == ("finished", 6, 0)


def test_a_run_whose_server_was_lost_goes_on_from_its_folder(bench: Bench) -> None:
    spec = half_done(bench)
    bench.close()
    bench.redis.flushall()

    result = cli("resume", spec.out, "-u", bench.url)

    assert "2 of 3 shards enqueued" in result.stderr
    engine = DoubleEngine()
    bench.burst(engine)
    assert engine.prompts == [f"prompt {n}" for n in (2, 3, 4, 5)]
    assert verify(Path(spec.out)).ok == 6


def test_the_redis_of_a_folder_is_found_whether_it_lives_or_not(tmp_path: Path) -> None:
    """As that of `mlx-batch run`: while it is at work, and after it was killed."""
    own = tmp_path / "out" / "_job" / "redis"
    with EmbeddedRedis(own) as server, connect(server.url) as connection:
        spec = enqueue(connection, tmp_path, 4, 2, out=tmp_path / "out")
        assert json.loads(cli("status", spec.out, "--json").stdout)["state"] == "waiting"

    status = json.loads(cli("status", spec.out, "--json").stdout)
    assert (status["state"], status["run_id"]) == ("interrupted", spec.run_id)
    assert status["remark"].startswith("nobody is at work on it")
    assert status["remark"].endswith(f"mlx-batch resume {spec.out}")
    assert cli("status", spec.out, "--watch").exit_code == ExitCode.FAILED
    assert cli("tail", spec.out).stdout == ""
    with EmbeddedRedis(own) as server:
        work_in_burst(server.url, DoubleEngine())
    assert json.loads(cli("status", spec.out, "--json").stdout)["state"] == "finished"
    told = cli("forget", spec.out)
    assert (told.exit_code, "the dataset stays" in told.stdout) == (0, True)
    assert not own.exists()
    assert "told from its folder alone" in " ".join(
        cli("status", spec.out, env={"COLUMNS": "200"}).stdout.split()
    )


def test_a_run_whose_processes_were_killed_says_so_and_its_tail_ends(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its jobs stand as begun, by a worker whose record has not expired yet."""
    own = tmp_path / "out" / "_job" / "redis"
    with EmbeddedRedis(own) as server, connect(server.url) as connection:
        bench = Bench(connection, server.url, tmp_path)
        spec = half_done(bench, out=tmp_path / "out")
        said = json.loads(cli("status", spec.out, "--json").stdout)
        assert (said["state"], len(said["workers"])) == ("running", 1)
        for command in (["resume"], ["continue"], ["retry", "--errors"]):
            refused = cli(*command, spec.out)
            assert refused.exit_code == ExitCode.CONFLICT, refused.output
            assert f"a run is at work in {spec.out}; " in refused.stderr
        pause_run(connection, spec.run_id)
        monkeypatch.setattr("worker.cli.going_on.MOST_OF_AN_END", 0.1)
        refused = cli("resume", spec.out)
        assert refused.exit_code == ExitCode.CONFLICT, refused.output
        assert f"a run is ending yet in {spec.out}; " in refused.stderr
        joined = cli("continue", spec.out)  # rows are under way, and whoever holds them goes on
        assert joined.exit_code == 0, joined.output
        (worker,) = bench._workers
        worker.bookkeeper.unsubscribe()
        worker.bookkeeper.connection.close()

    said = json.loads(cli("status", spec.out, "--json").stdout)
    assert (said["state"], said["rows_done"], said["workers"]) == ("interrupted", 3, {})
    assert (said["shards"]["started"], said["shards"]["queued"]) == (0, 2), "nobody is at it"
    rows = cli("tail", spec.out)
    assert [line.partition(":")[0] for line in rows.stdout.splitlines()] == ["r0", "r1", "r2"]

    assert cli("pause", spec.out).exit_code == 0
    halted = json.loads(cli("status", spec.out, "--json").stdout)
    assert halted["state"] == "paused"
    assert f"with: mlx-batch continue {spec.out}" in halted["remark"]
    assert cli("tail", spec.out).stdout == rows.stdout

    # Workers of a server that is given may go on with it, and answer what nobody has.
    resumed = cli("resume", spec.out, "-u", redis_url)
    assert (resumed.exit_code, resumed.stdout.strip()) == (0, spec.run_id), resumed.stderr
    assert not own.exists()
    engine = DoubleEngine()
    work_in_burst(redis_url, engine)
    assert engine.prompts == ["prompt 3", "prompt 4", "prompt 5"]
    assert verify(Path(spec.out)).ok == 6


def test_a_folder_that_no_worker_has_made_yet_is_found_by_any_path_to_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = bench.enqueue(rows=2, shard_size=2, say="to-come")
    out = Path(spec.out)
    monkeypatch.chdir(out.parent)
    monkeypatch.setenv("HOME", str(out.parent))

    for path in ("to-come", "./to-come/", "~/to-come", f"../{out.parent.name}/to-come", out):
        said = json.loads(cli("status", path, "-u", bench.url, "--json").stdout)
        assert said["run_id"] == spec.run_id, path
    assert not out.exists()
    unknown = cli("status", "nothing", "-u", bench.url)
    assert (unknown.exit_code, "'nothing'" in unknown.stderr) == (ExitCode.BAD_INPUT, True)
    assert cli("forget", "to-come/", "-u", bench.url).exit_code == 0
    assert Ledger(bench.redis).runs() == []


def test_what_is_no_run_and_what_lacks_a_server(tmp_path: Path) -> None:
    nothing = cli("status", tmp_path)
    assert nothing.exit_code == ExitCode.BAD_INPUT
    assert f"{tmp_path} is the folder of no run" in nothing.stderr

    name = cli("status", "run-0123456789ab")
    assert name.exit_code == 2
    assert "RQ_REDIS_URL" in name.stderr
    assert "RQ_REDIS_URL" in cli("status").stderr
