"""What the help of the commands says, and completion."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command_line import cli
from tests.helpers.engines import wait_for
from tests.helpers.terminal import Terminal
from worker.cli.app import main


@pytest.mark.parametrize("command", [[], *([name] for name in sorted(main.commands))])
def test_h_is_help_everywhere_and_fits_80_columns(command: list[str]) -> None:
    short, long = cli(*command, "-h", terminal_width=80), cli(*command, "--help")

    assert short.exit_code == long.exit_code == 0
    assert short.stdout.startswith("Usage: ")
    assert max(map(len, short.stdout.splitlines())) <= 80
    assert "-h, --help" in long.stdout


@pytest.mark.parametrize("command", ["run", "enqueue", "worker"])
def test_options_are_listed_in_groups_each_once(command: str) -> None:
    said = cli(command, "-h").stdout
    groups = re.findall(r"^(\w.*):$", said, re.MULTILINE)

    input = ["Input", "Model", "Output", "Answers", "Form of the answers", "Videos"]
    here = ["Batch", "Images and videos that may be read"]
    expected = {"run": input + here, "enqueue": input, "worker": ["Model"]}[command]
    assert [name for name in groups if name in expected] == expected
    assert "Redis" in groups
    assert groups[-1] == "Other"
    assert len(groups) == len(set(groups))


@pytest.mark.parametrize("command", ["run", "enqueue", "plan"])
def test_files_that_are_too_many_are_told_where_they_come_from(command: str) -> None:
    rest = ["--model", "m", *([] if command == "plan" else ["--out", "o", "-u", "redis://x"])]
    pattern = cli(command, "--images", "a.png", "b.png", "c.png", "--prompt", "?", *rest)
    files = cli(command, "a.jsonl", "b.jsonl", *rest)

    assert (pattern.exit_code, files.exit_code) == (2, 2)
    assert "argument (c.png). A pattern of files stands in quotes" in pattern.stderr
    assert "argument (b.jsonl). One prompt file at a time" in files.stderr


@pytest.mark.parametrize("command", ["run", "enqueue"])
def test_two_examples_whose_options_there_are(command: str) -> None:
    said = cli(command, "-h").stdout
    given = said.partition("Examples:")[2]

    assert given.count(f"mlx-batch {command} ") == 2
    known = {name for option in main.commands[command].params for name in option.opts}
    assert set(re.findall(r"(?<= )--?[a-z-]+", given)) <= known


def test_the_tab_key_completes_in_a_terminal_with_bash(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "prompts.jsonl").touch()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PS1": "$ ", "TERM": "xterm", "HOME": str(tmp_path)}
    terminal = Terminal(["bash", "--norc", "--noprofile", "-i"], environment)
    try:
        terminal.press(f"cd {tmp_path}; set +o history\n")
        terminal.press('eval "$(_MLX_BATCH_COMPLETE=bash_source mlx-batch)"; echo "it is"" read"\n')
        wait_for(lambda: "it is read" in terminal.text)
        terminal.press("mlx-batch status d\t")
        wait_for(lambda: "mlx-batch status dataset/" in terminal.text)
    finally:
        terminal.process.kill()
        terminal.finish()
        terminal.close()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_shell_completes(shell: str) -> None:
    command = str(Path(sys.executable).with_name("mlx-batch"))
    at = "--max-t" if shell == "fish" else "2"
    asked = {"COMP_WORDS": "mlx-batch run --max-t", "COMP_CWORD": at}
    environment = {**os.environ, **asked, "_MLX_BATCH_COMPLETE": f"{shell}_complete"}
    said = subprocess.run([command], env=environment, capture_output=True, text=True)
    assert "--max-tokens" in said.stdout, said.stderr
