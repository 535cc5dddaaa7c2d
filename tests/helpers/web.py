"""A real web server on 127.0.0.1 that says byte for byte what a test wants it to say."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from vllm_mlx.media import network

CERTIFICATES = Path(__file__).parent / "certificates"  # valid until 2126, for media.example.org
PUBLIC = "93.184.215.14"

Answer = bytes | Callable[[socket.socket], None]


def ok(body: bytes, *headers: str) -> bytes:
    """A complete answer."""
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Found\r\nLocation: {location}\r\n\r\n".encode()


@dataclass(frozen=True)
class Network:
    """What stands for the machine's own resolver, sockets and authorities."""

    addresses_of: Callable[[str, int], list[str]] = network.addresses_of
    open_socket: Callable[[str, int, float], socket.socket] = network.open_socket
    trusted: Callable[[], ssl.SSLContext] = network.trusted

    def installed(self) -> AbstractContextManager[object]:
        return patch.multiple(network, **vars(self))


class Web:
    """The server, and a `Network` in which public names lead to it."""

    def __init__(self, encrypted: bool = False) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[bytes] = []
        self.addresses: dict[str, list[list[str]]] = {}
        self.resolved: list[str] = []
        self.connected: list[str] = []
        self._context: ssl.SSLContext | None = None
        if encrypted:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(CERTIFICATES / "server.pem")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def says(self, target: str, *answers: Answer) -> None:
        """The answers to the first, second, … request; the last one to all further ones."""
        self.answers[target] = list(answers)

    def network(self) -> Network:
        """Any name is public, unless `addresses` has other answers for it, one a look-up."""
        return Network(self._resolve, self._connect, self._trusted)

    def _resolve(self, host: str, port: int) -> list[str]:
        self.resolved.append(host)
        answers = self.addresses.get(host, [[PUBLIC]])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def _connect(self, address: str, port: int, timeout_s: float) -> socket.socket:
        self.connected.append(address)
        return socket.create_connection(("127.0.0.1", self.port), timeout_s)

    def _trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=CERTIFICATES / "authority.pem")

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if self._context is None:
                self._reply(connection)
                return
            with self._context.wrap_socket(connection, server_side=True) as encrypted:
                self._reply(encrypted)

    def _reply(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            data = connection.recv(4096)
            if not data:
                return
            request += data
        self.requests.append(request)
        answers = self.answers[request.split(b" ")[1].decode()]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if callable(answer):
            answer(connection)
        else:
            connection.sendall(answer)

    def close(self) -> None:
        # On Linux closing alone doesn't wake a thread in `accept`.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join(5)
