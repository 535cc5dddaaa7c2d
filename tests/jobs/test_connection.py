"""Connections are refused by version: of a server that lacks what jobs need nothing is half done.

An old server is a real one whose `INFO` is rewritten on its way.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from jobs.connection import connect
from jobs.errors import ServerVersionError
from tests.helpers.command_line import cli
from tests.helpers.engines import MODEL, write_prompts

Claim = Callable[[str], str]


@pytest.fixture
def claim(redis_url: str) -> Iterator[Claim]:
    """Gives the URL of a server that claims to be of a version as long as `7.2.4`."""
    with ExitStack() as stack:

        def start(version: str) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            threading.Thread(target=accept, args=(listener, version.encode()), daemon=True).start()
            return f"redis://127.0.0.1:{listener.getsockname()[1]}/0"

        def accept(listener: socket.socket, version: bytes) -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    server = socket.socket(socket.AF_UNIX)
                    server.connect(redis_url.removeprefix("unix://"))
                    for pipe in ((client, server), (server, client)):
                        threading.Thread(target=pump, args=(*pipe, version), daemon=True).start()

        def pump(source: socket.socket, target: socket.socket, version: bytes) -> None:
            with suppress(OSError), source, target:
                while data := source.recv(1 << 16):
                    target.sendall(re.sub(rb"(?<=redis_version:)[\d.]+", version, data))
                target.shutdown(socket.SHUT_RDWR)

        yield start


@pytest.mark.parametrize("version", ["6.2.9", "6.0.9", "5.9.9"])
def test_a_server_that_is_too_old_is_refused(claim: Claim, version: str) -> None:
    with (
        connect(claim(version)) as connection,
        pytest.raises(ServerVersionError, match=f"is Redis {version}: .* needs Redis 7.0, or Val"),
    ):
        connection.get("key")


@pytest.mark.parametrize("version", ["7.0.0", "8.9.9"])
def test_one_that_is_new_enough_is_not(claim: Claim, version: str) -> None:
    with connect(claim(version)) as connection:
        assert connection.ping()


@pytest.mark.parametrize(
    "command",
    [
        "run {prompts} --model {model} --out {out}",
        "enqueue {prompts} --model {model} --out {out}",
        "worker --model {model} --burst",
        "status",
        "acl",
    ],
)
def test_every_command_says_it_in_one_line(claim: Claim, tmp_path: Path, command: str) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 2)
    words = command.format(prompts=prompts, model=MODEL, out=tmp_path / "out").split()
    url = claim("6.2.9")

    result = cli(*words, "-u", url)

    assert result.exit_code == 3
    assert f"mlx-batch: {url} is Redis 6.2.9: mlx-batch needs Redis 7.0, or Valkey" in result.stderr
    assert result.stdout == ""
