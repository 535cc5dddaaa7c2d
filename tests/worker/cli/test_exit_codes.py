"""The exit codes that say how a run ended; most are tested beside their commands."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.helpers.command_line import cli
from worker.cli.exit_codes import ExitCode
from worker.local.embedded_redis import EmbeddedRedis


def ended(folder: Path, model: str, *prompts: str) -> int:
    source = folder / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    words = ["run", source, "--model", model, "--out", folder / "out", "--max-tokens", 4]
    return cli(*words, "--skip-bad-rows").exit_code


def test_codes_of_signals_are_those_of_shells() -> None:
    by_signal = {
        signal.SIGHUP: "HANGUP",
        signal.SIGINT: "INTERRUPTED",
        signal.SIGTERM: "TERMINATED",
    }
    assert {128 + signum: name for signum, name in by_signal.items()} == {
        code: code.name for code in ExitCode if code > 128
    }


def test_a_run_none_of_whose_rows_succeeds_says_so(tmp_path: Path, text_folder: str) -> None:
    assert ended(tmp_path, text_folder, "", "") == ExitCode.NOTHING_SUCCEEDED
    assert (tmp_path / "out" / "_SUCCESS").exists(), "its rows say why"


def test_a_folder_in_which_another_run_is_at_work(tmp_path: Path, text_folder: str) -> None:
    with EmbeddedRedis(tmp_path / "out" / "_job" / "redis"):
        assert ended(tmp_path, text_folder, "hello") == ExitCode.CONFLICT
