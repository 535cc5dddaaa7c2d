"""A command that is told at the end of a run, however that comes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import worker
from jobs.errors import RunHaltedError
from tests.helpers.command_line import cli
from tests.helpers.engines import write_prompts
from worker.cli.exit_codes import ExitCode
from worker.local.on_finish import OnFinish


def told(folder: Path) -> tuple[str, Path]:
    """A command that keeps what it is told, and where."""
    said = folder / "said.json"
    return f"cat > {shlex.quote(str(said))}", said


def test_a_run_that_is_halted_and_then_finishes(tmp_path: Path, text_folder: str) -> None:
    prompts, (command, said) = write_prompts(tmp_path / "p.jsonl", 12), told(tmp_path)
    given: dict[str, Any] = {"model": text_folder, "out": tmp_path / "out", "shard_size": 2}
    given |= {"max_tokens": 8, "temperature": 0, "max_num_seqs": 1, "on_finish": command}

    with pytest.raises(RunHaltedError):
        worker.run_file(prompts, max_output_tokens=16, **given)

    state = json.loads(said.read_text())
    assert (state["state"], state["rows"]) == ("halted", 12)
    assert 2 <= state["rows_done"] < 12
    assert state["error_type"] == "RunHaltedError"
    assert "max_output_tokens" in state["error"]

    words = ["run", prompts, "--model", text_folder, "--out", tmp_path / "out", "--shard-size", 2]
    words += ["--max-tokens", 8, "--temperature", 0, "--resume", "--on-finish", command]
    assert cli(*words).exit_code == 0
    state = json.loads(said.read_text())
    assert (state["state"], state["rows_done"], state["error"]) == ("finished", 12, None)
    assert state["run_id"].startswith("run-")


def test_a_run_that_can_not_begin(tmp_path: Path, text_folder: str) -> None:
    command, said = told(tmp_path)
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("no JSON\n")
    words = ["run", prompts, "--model", text_folder, "--out", tmp_path / "out"]

    assert cli(*words, "--on-finish", command).exit_code == ExitCode.BAD_INPUT

    state = json.loads(said.read_text())
    assert (state["state"], state["error_type"]) == ("failed", "InputFileError")


def test_ctrl_c_and_a_command_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    command, said = told(tmp_path)
    finish = OnFinish(f"{command}; exit 3", tmp_path)
    with pytest.raises(KeyboardInterrupt), finish.at_the_end():
        raise KeyboardInterrupt
    assert json.loads(said.read_text())["state"] == "interrupted"
    assert "ended with code 3" in caplog.text
