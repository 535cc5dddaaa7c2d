"""Connections are refused by version: of a server that lacks what jobs need nothing is half done.

An old server is a real one whose `INFO` is rewritten on its way.
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from jobs.connection import connect
from jobs.errors import ServerVersionError, UnsuitableServerError
from jobs.producer import enqueue_run
from tests.helpers.command_line import cli
from tests.helpers.engines import MODEL, wait_for, write_prompts
from vllm_mlx.errors import InvalidRequestError
from worker.local.embedded_redis import find_server

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
    assert result.stderr.count("\n") == 1


# Servers and connections that do not suit.


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """The URL of a server that is a cluster of one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [find_server(), "--port", str(port), "--cluster-enabled", "yes", "--save", ""]
    words += ["--cluster-port", str(port - 1000), "--dir", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as server:
        url = f"redis://127.0.0.1:{port}/0"
        wait_for(lambda: answers(url), timeout=20)
        yield url
        server.kill()


def answers(url: str) -> bool:
    with suppress(RedisError), Redis.from_url(url) as connection:
        return bool(connection.ping())
    return False


def test_a_cluster_is_refused_before_anything_is_written(cluster: str, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 2)
    words = [prompts, "--model", MODEL, "--out", tmp_path / "out", "-u", cluster]

    for command in ("enqueue", "run"):
        result = cli(command, *words)
        assert result.exit_code == 3
        assert f"mlx-batch: {cluster} is a Redis Cluster: " in result.stderr
        assert result.stderr.count("\n") == 1
    with Redis.from_url(cluster) as plain:
        with pytest.raises(UnsuitableServerError, match="the server is a Redis Cluster"):
            enqueue_run(plain, prompts, model=MODEL, out=tmp_path / "out")
        assert plain.keys("*") == []
    assert not (tmp_path / "out").exists()


def test_a_connection_that_decodes_is_refused(redis_url: str, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 2)
    with (
        Redis.from_url(redis_url, decode_responses=True) as decoding,
        pytest.raises(InvalidRequestError, match="decode_responses: RQ and the ledger read bytes"),
    ):
        enqueue_run(decoding, prompts, model=MODEL, out=tmp_path / "out")
    result = cli("status", "-u", f"{redis_url}?decode_responses=True")
    assert result.exit_code == 2
    assert "decode_responses: RQ and the ledger read bytes" in result.stderr


@pytest.mark.parametrize("version", ["6.2.9"])
def test_an_old_server_of_a_connection_of_ones_own(
    claim: Claim, tmp_path: Path, version: str
) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 2)
    with (
        Redis.from_url(claim(version)) as own,
        pytest.raises(ServerVersionError, match=f"the server is Redis {version}: "),
    ):
        enqueue_run(own, prompts, model=MODEL, out=tmp_path / "out")


def test_a_job_that_the_server_would_not_take_is_told_before_any_is_there(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    noise = [base64.b64encode(os.urandom(200_000)).decode() for _ in range(8)]
    prompts = tmp_path / "p.jsonl"
    rows = [{"prompt": "a"}] * 8 + [{"prompt": "b", "note": each} for each in noise]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["enqueue", prompts, "--model", MODEL, "--out", tmp_path / "out", "-u", redis_url]
    redis.config_set("proto-max-bulk-len", 1 << 20)
    try:
        refused = cli(*words, "--shard-size", 8)
        (count,) = re.findall(r"give a --shard-size of (\d+)", refused.stderr)
        assert redis.keys("*") == []
        taken = cli(*words, "--shard-size", count)
    finally:
        redis.config_set("proto-max-bulk-len", 512 << 20)

    assert refused.exit_code == 3
    assert re.search(r"rows 8 to 15 make a job of 1,\d{3},\d{3} bytes", refused.stderr)
    assert taken.exit_code == 0, taken.stderr
