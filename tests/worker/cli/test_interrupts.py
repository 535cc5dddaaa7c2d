"""Ctrl-C before the command is there, and after it has ended."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from tests.helpers.command_line import cli

ROOT = Path(__file__).parents[3]
AT_IMPORT = """
import os, sys
class Press:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), 2)
sys.meta_path.insert(0, Press())
"""
AT_EXIT = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGINT)"


def script() -> list[str]:
    """The command as an installer makes it."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["mlx-batch"].partition(":")
    return ["-c", f"import sys; from {module} import {function}; sys.exit({function}())"]


@pytest.mark.parametrize(
    ("start", "press"),
    [
        (script(), AT_IMPORT.format(module="signal")),
        (["-m", "worker.cli"], AT_IMPORT.format(module="worker.cli.app")),
        (script(), AT_IMPORT.format(module="worker.cli.app")),
        (script(), AT_IMPORT.format(module="json")),
        (["-m", "worker.cli"], AT_EXIT),
    ],
    ids=["at once", "module", "script", "an import of others", "at exit"],
)
def test_ctrl_c_at_any_time_is_no_traceback(start: list[str], press: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(press)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])

    ended = subprocess.run(
        [sys.executable, *start, "--version"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (ended.returncode, ended.stderr) == (130, "")
    assert ("version" in ended.stdout) is (press == AT_EXIT)


def test_ctrl_c_while_options_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(click.Group, "make_context", press)
    ended = cli("--version")
    assert (ended.exit_code, ended.output) == (130, "")
