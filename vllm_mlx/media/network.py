"""How names are resolved and sockets opened; `Deadline` and the reads that keep it.

Nothing here decides what is allowed: that is checked between `addresses_of` and `open_socket`.
"""

from __future__ import annotations

import functools
import io
import socket
import ssl
import threading
import time
from concurrent.futures import Future
from typing import Any

MAX_HEADER_BYTES = 64 << 10


def addresses_of(host: str, port: int) -> list[str]:
    """Return the IP addresses of a host."""
    # Bytes, or `getaddrinfo` would apply an IDNA of its own.
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def open_socket(address: str, port: int, timeout_s: float) -> socket.socket:
    """Return a socket that is connected to an IP address."""
    return socket.create_connection((address, port), timeout_s)


trusted = functools.cache(ssl.create_default_context)


class Deadline:
    """A point in time that all steps of one download share."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds that are left, negative ones after the end."""
        return self._end - time.monotonic()

    def left(self) -> float:
        """Return a timeout for the next step.

        Raises:
            TimeoutError: no time is left.
        """
        left = self.remaining
        if left <= 0:
            raise TimeoutError("the time for this download is over")
        return left


def resolve_within(host: str, port: int, deadline: Deadline) -> list[str]:
    """Return the addresses of `host`. A resolver can't be interrupted: a late one is abandoned.

    Raises:
        OSError: there is no such host, or (TimeoutError) the resolver is too slow.
    """
    answer: Future[list[str]] = Future()

    def ask() -> None:
        try:
            answer.set_result(addresses_of(host, port))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    return answer.result(timeout=deadline.left())


class HeaderTooLong(Exception):
    """An answer's status and headers went on for more than `MAX_HEADER_BYTES`."""


class Incoming(io.RawIOBase):
    """What a server sends. Each read may take what the deadline leaves, not the timeout anew.

    So a server that sends a byte every second holds a download no longer than a silent one.
    """

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        self._header_bytes: int | None = 0

    def headers_end(self) -> None:
        """End the count of header bytes; those of the body are counted elsewhere."""
        self._header_bytes = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._connection.settimeout(self._deadline.left())
        count = self._connection.recv_into(buffer)
        if self._header_bytes is not None:
            self._header_bytes += count
            if self._header_bytes > MAX_HEADER_BYTES:
                raise HeaderTooLong
        return count

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return the file that `http.client.HTTPResponse` asks of a socket."""
        assert mode == "rb"
        return io.BufferedReader(self)
