"""`continue`, `retry` and `resume` of a dataset's folder, where no server is given."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from threading import Timer

import pytest

from jobs.connection import connect
from jobs.dataset import Dataset, verify
from jobs.pause import pause_run
from jobs.producer import resume_run
from tests.helpers.bench import Bench, work_in_burst
from tests.helpers.command_line import cli
from tests.helpers.engines import DoubleEngine, enqueue, write_prompts
from tests.helpers.terminal import Terminal
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.scheduler_config import SchedulerConfig
from worker.cli.exit_codes import ExitCode
from worker.local.embedded_redis import EmbeddedRedis, own_server
from worker.local.known_run import KnownRun
from worker.local.worker_settings import WorkerSettings


@pytest.fixture(autouse=True)
def no_redis_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RQ_REDIS_URL", raising=False)


@pytest.mark.slow  # two workers, one after the other
def test_a_halted_run_is_continued_in_its_folder(tmp_path: Path, text_folder: str) -> None:
    out = tmp_path / "my out"
    words = ["run", write_prompts(tmp_path / "p.jsonl", 40), "--model", text_folder, "--out", out]
    words += ["--shard-size", 4, "--max-tokens", 8, "--temperature", 0, "--max-num-seqs", 2]
    halted = cli(*words, "--max-output-tokens", 170, "--ignore-eos", "--no-report")
    assert halted.exit_code == ExitCode.HALTED
    (tmp_path / "p.jsonl").unlink()

    status = json.loads(cli("status", out, "--json").stdout)
    assert (status["state"], status["rows_done"] < 40) == ("halted", True)
    assert f"mlx-batch continue '{out}'" in status["remark"]
    assert len(cli("tail", out, "-n", 3).stdout.splitlines()) == 3

    terminal = Terminal([sys.executable, "-m", "worker.cli", "continue", str(out)])
    code = terminal.finish()
    terminal.close()

    assert code == ExitCode.OK, terminal.text
    assert "40 rows answered, 0 in error" in terminal.text
    drawn = terminal.text[: terminal.text.index("   first  ")].splitlines()
    assert max(map(len, drawn)) <= 80
    assert verify(out).complete
    assert not own_server(out).exists()

    write_prompts(tmp_path / "p.jsonl", 40)
    terminal = Terminal([sys.executable, "-m", "worker.cli", "retry", str(out), "--errors"])
    assert terminal.finish() == ExitCode.OK
    terminal.close()
    assert "0 rows to be tried again" in map(str.rstrip, terminal.text.splitlines())


def test_a_run_that_is_enqueued_elsewhere_goes_on_here_only_if_a_model_is_named(
    bench: Bench,
) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    bench.burst(DoubleEngine())

    assert cli("resume", spec.out).exit_code == ExitCode.BAD_INPUT
    other = cli("resume", spec.out, "--model", __file__)
    assert other.exit_code == ExitCode.BAD_INPUT
    assert not own_server(Path(spec.out)).exists()
    here = cli("resume", spec.out, "--model", spec.model)
    assert here.exit_code == 0
    assert "2 rows answered" in here.stdout


def test_settings_of_workers_are_kept_with_paths_that_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model", "adapter", "media", "out"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    settings = WorkerSettings(
        model="model",
        adapter=Path("adapter"),
        workers=2,
        scheduler=SchedulerConfig.of(kv_cache_bytes="1GB"),
        media=MediaPolicy.of(["media"], [".example.org"]),
        report=False,
    )

    settings.keep(tmp_path / "out")

    there = {"model": str(tmp_path / "model"), "adapter": tmp_path / "adapter"}
    assert WorkerSettings.read(tmp_path / "out") == settings.model_copy(update=there)
    (tmp_path / "media").rmdir()
    kept = WorkerSettings.read(tmp_path / "out")
    assert kept is not None
    assert (kept.media.allowed_paths, kept.media.allowed_domains) == ((), (".example.org",))


def test_a_folder_that_was_moved_goes_on_from_what_lies_in_it(tmp_path: Path) -> None:
    """The data of its server moved with it, and knows it by its old name."""
    out = tmp_path / "out"
    with EmbeddedRedis(own_server(out)) as server, connect(server.url) as connection:
        spec = enqueue(connection, tmp_path, 4, 2, out=out)
        work_in_burst(server.url, DoubleEngine())
    moved = out.rename(tmp_path / "moved")
    Dataset(moved).unfinish()
    Dataset(moved).layout.part(1, 2).unlink()

    told, other = (WorkerSettings(model=model) for model in (spec.model, "other/model"))
    with EmbeddedRedis(own_server(moved)) as server, connect(server.url) as connection:
        enqueued = KnownRun(moved, resume_run, told).enqueue(connection)
        assert (enqueued.spec.out, enqueued.shards) == (str(moved), 1)
        with pytest.raises(InvalidRequestError, match=f"is made with {spec.model}"):
            KnownRun(moved, resume_run, other).enqueue(connection)


def test_a_run_that_is_ending_is_waited_for(tmp_path: Path) -> None:
    """It is paused and at rest, and its process writes what there is of it."""
    out = tmp_path / "out"
    server = EmbeddedRedis(own_server(out))
    server.start()
    with connect(server.url) as connection:
        spec = enqueue(connection, tmp_path, 4, 2, out=out)
        pause_run(connection, spec.run_id)
    end = Timer(0.5, server.stop)
    end.start()

    told = cli("continue", out)

    assert end.finished.is_set()
    end.join()
    assert told.exit_code == ExitCode.BAD_INPUT, told.output
    assert "does not say where its model lies" in told.stderr, "it would go on in its folder"
