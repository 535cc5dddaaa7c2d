"""Sleep of a Mac: there is none here, so the command is looked at, and a stand-in is run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker import awake


def test_only_a_mac_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert awake.command(7) is None

    monkeypatch.setattr(sys, "platform", "darwin")
    assert awake.command(7) == ["caffeinate", "-im", "-w", "7"]


def test_it_is_held_in_the_body_and_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = tmp_path / "caffeinate"
    stand_in.write_text('#!/bin/sh\necho "$@" > "$(dirname "$0")/asked"\nexec sleep 60\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sys, "platform", "darwin")
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def remember(*words: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(start(*words, **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remember)

    with awake.kept_awake():
        (process,) = started
        assert process.poll() is None

    assert process.poll() is not None


def test_a_mac_without_it_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awake, "command", lambda _: ["/nowhere/caffeinate"])

    with awake.kept_awake():
        pass
