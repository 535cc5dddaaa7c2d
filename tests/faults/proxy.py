"""`Proxy`: stands before a server and cuts connections whose transaction was just applied."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading

RESET = struct.pack("ii", 1, 0)  # closing sends a reset
TRANSACTIONS = (b"\r\nEXEC\r\n", b"\r\nEVALSHA\r\n", b"\r\nEVAL\r\n", b"\r\nFCALL\r\n")


class Proxy:
    """Forwards to `port`; one in `cut_every` transactions loses its reply on the way back.

    Which one is drawn: what is cut at a fixed distance may be cut at the same step for ever.
    """

    def __init__(self, port: int, cut_every: int) -> None:
        self.cuts = 0
        self._port = port
        self._cut_every = cut_every
        self._draw = random.Random(0)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                cut = threading.Event()
                for pump in (self._ask, self._reply):
                    threading.Thread(target=pump, args=(client, server, cut), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError), client, server:
            while data := client.recv(65536):
                if self._is_due(data):
                    cut.set()
                server.sendall(data)

    def _reply(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with contextlib.suppress(OSError), client, server:
            while data := server.recv(65536):
                if cut.is_set():
                    self.cuts += 1
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    client.shutdown(socket.SHUT_RD)  # wakes the other thread
                    return
                client.sendall(data)

    def _is_due(self, data: bytes) -> bool:
        if not any(name in data.upper() for name in TRANSACTIONS):
            return False
        with self._lock:
            return self._draw.random() * self._cut_every < 1
