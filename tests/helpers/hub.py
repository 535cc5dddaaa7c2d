"""A model hub on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + 34 * "0"


class Hub(ThreadingHTTPServer):
    """Has one model, whose files are those of a folder.

    Attributes:
        stalls: is asked for whatever has this in its path, and does not answer.
        asked: set when it was asked for that.
        left: set when who asked has left.
    """

    daemon_threads = True

    def __init__(self, name: str, folder: Path | None, stalls: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = name
        self.folder = folder
        self.stalls = stalls
        self.asked = threading.Event()
        self.left = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        if hub.stalls and hub.stalls in path:
            self._stall()
        elif hub.folder and path.startswith(f"/api/models/{hub.name}/tree/"):
            self._send(json.dumps([_entry(file) for file in sorted(hub.folder.iterdir())]).encode())
        elif hub.folder and path.startswith(f"/api/models/{hub.name}"):
            self._send(json.dumps({"id": hub.name, "sha": COMMIT}).encode())
        elif hub.folder and (file := hub.folder / Path(path).name).is_file():
            self._send(file.read_bytes())
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def _stall(self) -> None:
        self.server.asked.set()
        while self.rfile.read1(1 << 16):
            pass
        self.server.left.set()

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hash(content) & 0xFFFFFFFF:08x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def _entry(file: Path) -> dict[str, object]:
    return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name}


@contextmanager
def serving(name: str, folder: Path | None, stalls: str | None = None) -> Iterator[Hub]:
    """A hub that answers meanwhile."""
    with Hub(name, folder, stalls) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()
