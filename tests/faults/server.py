"""`Server`: a Redis of one test, that is killed, frozen, starved, and started on the same data."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from jobs.connection import connect
from worker.local.embedded_redis import find_server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """Every command it acknowledges is on disk, as `docs/guarantees.md` asks of a Redis."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._folder.absolute()),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen([find_server(), *words], stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        with self.client() as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(RedisError):
                    client.ping()
                    return
                time.sleep(0.02)
        raise TimeoutError("the server does not answer")

    def client(self) -> Redis:
        return connect(self.url)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def limit_memory(self, limit: int) -> None:
        """Refuse writes from `limit` bytes on; 0: never."""
        with self.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", limit)

    def _signal(self, signum: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(signum)
