"""A run that shows its first rows and asks, in a terminal of its own."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from jobs.connection import connect
from jobs.dataset import verify
from jobs.errors import RunStateError
from jobs.pause import continue_run, pause_run
from jobs.producer import resume_run
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import DoubleEngine, enqueue, wait_for, write_prompts
from tests.helpers.shell import Shell
from vllm_mlx.sampling_params import SamplingParams
from worker.batch_worker import BatchWorker
from worker.cli.exit_codes import ExitCode
from worker.local.embedded_redis import EmbeddedRedis, own_server
from worker.local.preview import RunPreviewedError
from worker.local.run_result import RunResult
from worker.local.worker_settings import WorkerSettings
from worker.status.phase import Phase
from worker.status.progress import RunProgress
from worker.status.status import run_status


def words(folder: Path, model: str) -> list[Any]:
    prompts = write_prompts(folder / "p.jsonl", 12)
    given = ["run", prompts, "--model", model, "--out", folder / "out", "--shard-size", 5]
    return [*given, "--max-tokens", 4, "--temperature", 0, "--max-num-seqs", 8]


def test_nobody_can_be_asked(tmp_path: Path, text_folder: str) -> None:
    told = cli(*words(tmp_path, text_folder), "--preview", 2)

    assert told.exit_code == ExitCode.BAD_INPUT
    assert "--yes" in told.stderr
    assert not (tmp_path / "out").exists()


def test_rows_are_shown_and_no_is_taken_for_an_answer(
    shell: Shell, tmp_path: Path, text_folder: str
) -> None:
    given = words(tmp_path, text_folder)

    code, said = shell.run(*given, "--preview", 2, press="n\n")

    assert code == ExitCode.HALTED, said
    assert len(re.findall(r"^r(\d+): prompt \1\n  → .+\(length\)$", said, re.MULTILINE)) == 2
    assert "Go on with the rest?" in said
    done = r"^(\d+) of 12 rows done: \1 rows answered, 0 in error$"
    assert re.search(done, said, re.MULTILINE)
    assert re.search(r"^go on: +mlx-batch resume .*/out$", said, re.MULTILINE)
    said = " ".join(said.split())
    assert "halted: its first 2 rows are done, for a look at them (preview)" in said
    assert "; 2 of 12 rows are done" in said  # though all would have run side by side
    assert f"`mlx-batch resume {tmp_path / 'out'}` goes on" in said

    assert cli(*given, "--preview", 2, "--yes", "--resume").exit_code == 0
    found = verify(tmp_path / "out")
    assert (found.complete, found.ok) == (True, 12)


@pytest.mark.slow  # three workers, one after the other
def test_a_run_that_was_cut_off_before_its_preview_asks_when_it_is_resumed(
    shell: Shell, tmp_path: Path, text_folder: str
) -> None:
    out = cut_off(tmp_path, text_folder)

    told = cli("resume", out)
    assert told.exit_code == ExitCode.HALTED, "nobody can be asked"
    assert re.findall(r"^r(\d): prompt \1$", told.stdout, re.MULTILINE) == ["0", "1"]
    assert f"go on:         mlx-batch resume {out}\n" in told.stdout

    code, said = shell.run("resume", out)
    assert code == ExitCode.OK, said
    assert "Go on with" not in said, "its preview was shown"
    assert verify(out).ok == 12


class CtrlC(io.BytesIO):
    """An input where it is pressed when something is asked."""

    def read1(self, _: int | None = -1) -> bytes:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("answer", "code", "ends"),
    [
        (CtrlC(), ExitCode.INTERRUPTED, "mlx-batch: stopped\n"),
        (io.BytesIO(), ExitCode.HALTED, "mlx-batch: run-1: its preview\n"),
    ],
)
def test_what_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: io.BytesIO, code: ExitCode, ends: str
) -> None:
    halted = RunPreviewedError("run-1: its preview", [])
    halted.result = RunResult.of(
        tmp_path, RunProgress(phase=Phase.STOPPED, run_id="run-1", rows=12)
    )

    def halt(**_: object) -> RunResult:
        raise halted

    monkeypatch.setattr("worker.cli.preview.run_file", halt)
    monkeypatch.setattr("worker.cli.preview.can_ask", lambda: True)

    told = cli(*words(tmp_path, "m"), "--preview", 2, input=answer)

    assert told.exit_code == code
    assert f"\ngo on:         mlx-batch resume {tmp_path / 'out'}\n" in told.stdout
    assert told.stderr.startswith("Go on with the rest? [y/N]: \n")
    assert told.stderr.endswith(f"\n{ends}")


@pytest.mark.slow  # a worker
def test_ctrl_c_at_the_question(shell: Shell, tmp_path: Path, text_folder: str) -> None:
    said = tmp_path / "said.json"
    given = [*words(tmp_path, text_folder), "--preview", 2, "--on-finish", f"cat > {said}"]
    terminal = shell.open(*given, "--no-report", COLUMNS="400")
    wait_for(lambda: "[y/N]:" in terminal.text, timeout=60)

    terminal.press("\x03")

    assert terminal.finish() == ExitCode.INTERRUPTED
    terminal.close()
    shown = terminal.text[terminal.text.index("[y/N]:") :].replace("\n\n", "\n")
    done = re.search(r"^(\d+) of 12 rows done: \1 rows answered, 0 in error$", shown, re.MULTILINE)
    assert done, shown
    assert f"mlx-batch resume {tmp_path / 'out'} --on-finish 'cat > {said}'\n" in shown
    assert shown.rstrip().endswith("mlx-batch: stopped")
    state = json.loads(said.read_text())
    assert (state["state"], state["rows_done"]) == ("interrupted", int(done[1]))
    assert "cat >" not in (tmp_path / "out" / "_job" / "workers.json").read_text()


@pytest.mark.slow  # two workers, one after the other
def test_a_preview_in_its_folder_goes_on_with_yes(
    shell: Shell, tmp_path: Path, text_folder: str
) -> None:
    out = cut_off(tmp_path, text_folder)

    code, said = shell.run("resume", out, press="y\n")

    assert code == ExitCode.OK, said
    assert "Go on with the rest?" in said
    assert verify(out).ok == 12


def cut_off(folder: Path, model: str) -> Path:
    """The folder of a run of twelve rows that ended before any of its preview's two was begun."""
    out, sampling = folder / "out", SamplingParams.of(max_tokens=4)
    with EmbeddedRedis(own_server(out)) as server, connect(server.url) as connection:
        enqueue(connection, folder, 12, 5, out=out, preview=2, model=model, sampling=sampling)
    WorkerSettings(model=model, report=False).keep(out)
    return out


def preview(bench: Bench) -> tuple[RunSpec, list[DoubleEngine], list[BatchWorker]]:
    """Two workers that have begun with the first three rows, of two samples each."""
    spec = bench.enqueue(rows=12, shard_size=4, n=2, preview=3)
    engines = [DoubleEngine(max_num_seqs=4, held=True) for _ in range(2)]
    workers = [bench.worker(engine) for engine in engines]
    for worker in workers:
        worker.tend()  # so that they know of each other
    bench.step(*workers)
    return spec, engines, workers


def begun(engines: list[DoubleEngine]) -> list[str]:
    """What was asked, but for rows that were handed over before they had begun."""
    return [row.prompt for each in engines for row in each.asked if not row.future.cancelled()]


def test_the_first_rows_are_answered_and_no_others_begin(bench: Bench) -> None:
    spec, engines, workers = preview(bench)
    status = run_status(bench.redis, spec.run_id)
    assert (status.standing, status.halt, status.is_over) == ("running", None, False)
    assert sorted(begun(engines)) == sorted([f"prompt {row}" for row in range(3)] * 2)
    assert all(engine.open for engine in engines)

    for engine in engines:
        engine.answer()
    bench.step(*workers)
    bench.step(*workers)

    status = run_status(bench.redis, spec.run_id)
    assert (status.standing, status.is_over, status.rows_done) == ("halted", True, 6)
    assert (status.shards["done"], status.shards["deferred"]) == (1, 5)
    assert len(begun(engines)) == 6
    with pytest.raises(RunStateError, match="halted already"):
        pause_run(bench.redis, spec.run_id)

    assert continue_run(bench.redis, spec.run_id).shards == 5
    again = DoubleEngine()
    bench.burst(again)
    assert sorted(again.prompts) == sorted([f"prompt {row}" for row in range(3, 12)] * 2)
    assert verify(Path(spec.out)).complete


def test_a_preview_that_is_paused_goes_on_as_one(bench: Bench) -> None:
    spec, engines, workers = preview(bench)
    engines[0].answer(1)
    bench.step(*workers)
    pause_run(bench.redis, spec.run_id)
    assert run_status(bench.redis, spec.run_id).standing == "paused"
    bench.step(*workers)

    assert continue_run(bench.redis, spec.run_id).shards == 4  # the other two are in hand
    for engine in engines:
        engine.answer()
    bench.step(*workers)
    bench.step(*workers)

    status = run_status(bench.redis, spec.run_id)
    assert (status.standing, status.rows_done) == ("halted", 6)
    assert status.halt is not None
    assert status.halt.reason == "preview"
    assert len(begun(engines)) == 6
    # `resume` lets it go on, once the rows are there.
    assert resume_run(bench.redis, spec.run_id).shards == 5
    bench.burst(DoubleEngine())
    assert verify(Path(spec.out)).complete


def test_a_preview_of_everything_asks_nothing(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2, preview=2)
    bench.burst(DoubleEngine())
    assert run_status(bench.redis, spec.run_id).standing == "finished"
