"""A command that is told at the end of a run, however that comes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import worker
from jobs.errors import RunHaltedError
from tests.helpers.engines import write_prompts
from tests.helpers.shell import Shell
from worker.cli.exit_codes import ExitCode
from worker.local.on_finish import OnFinish


def told(folder: Path) -> tuple[str, Path]:
    """A command that keeps what it is told, and where."""
    said = folder / "said.json"
    return f"cat > {shlex.quote(str(said))}", said


def test_a_run_that_is_halted_and_then_finishes(
    shell: Shell, tmp_path: Path, text_folder: str
) -> None:
    prompts, (command, said) = write_prompts(tmp_path / "p.jsonl", 12), told(tmp_path)
    out = tmp_path / "out"
    given: dict[str, Any] = {"model": text_folder, "out": out, "shard_size": 12}
    given |= {"max_tokens": 8, "temperature": 0, "max_num_seqs": 1, "report": True}

    with pytest.raises(RunHaltedError) as halted:
        worker.run_file(prompts, max_output_tokens=16, on_finish=command, **given)

    state = json.loads(said.read_text())
    assert (state["state"], state["rows"]) == ("halted", 12)
    assert 2 <= state["rows_done"] < 12
    assert state["error_type"] == "RunHaltedError"
    assert "max_output_tokens" in state["error"]

    # Not a part of it is whole, and all that it has is to be seen.
    result, done = halted.value.result, state["rows_done"]
    assert not list(out.glob("data/*"))
    assert (result.rows, result.ok, result.is_finished) == (12, done, False)
    rows = list(result.read("id", "text", "prompt", "completion_tokens"))
    assert [row["prompt"] for row in rows] == [f"prompt {n}" for n in range(done)]
    assert result.completion_tokens == sum(row["completion_tokens"] for row in rows) == 8 * done
    assert result.decode_tokens_per_second
    unfinished = f"Unfinished: {done} of 12 rows are here, and 0 of 1 parts are whole."
    assert unfinished in result.report.read_text()
    # As after a kill: the folder's own server has it yet.
    for name in ("unfinished", "report.html", "manifest.json"):
        (out / "_job" / name).rename(tmp_path / f"moved-{name}")
    code, _ = shell.run("report", out)
    assert code == ExitCode.OK
    assert unfinished in result.report.read_text()

    words = ["run", prompts, "--model", text_folder, "--out", out, "--shard-size", 12]
    words += ["--max-tokens", 8, "--temperature", 0, "--resume", "--report", "--on-finish", command]
    code, shown = shell.run(*words)
    assert code == ExitCode.OK, shown
    assert "96 tokens out in all" in shown
    assert f"since it went on: {12 - done} rows, " in shown
    assert f"report: {result.report}\n" in shown
    assert "All 12 rows." in result.report.read_text()
    assert not (out / "_job" / "unfinished").exists()
    state = json.loads(said.read_text())
    assert (state["state"], state["rows_done"], state["error"]) == ("finished", 12, None)
    assert state["run_id"].startswith("run-")


def test_a_run_that_can_not_begin(shell: Shell, tmp_path: Path, text_folder: str) -> None:
    command, said = told(tmp_path)
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("no JSON\n")
    words = ["run", prompts, "--model", text_folder, "--out", tmp_path / "out"]

    assert shell.run(*words, "--on-finish", command)[0] == ExitCode.BAD_INPUT

    state = json.loads(said.read_text())
    assert (state["state"], state["error_type"]) == ("failed", "InputFileError")


def test_ctrl_c_and_a_command_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    command, said = told(tmp_path)
    finish = OnFinish(f"{command}; exit 3", tmp_path)
    with pytest.raises(KeyboardInterrupt), finish.at_the_end():
        raise KeyboardInterrupt
    assert json.loads(said.read_text())["state"] == "interrupted"
    assert "ended with code 3" in caplog.text
