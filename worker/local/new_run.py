"""`NewRun`: a run that is prepared and not begun, or goes on as it was prepared once more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from redis import Redis

from jobs.preparation import PreparedRun
from jobs.producer import Enqueued, enqueue_prepared
from jobs.sources import Input
from worker.local.embedded_redis import EmbeddedRedis, own_server
from worker.local.known_run import leave_own_server


class NewRun:
    """What `run_locally` asks of a run, as `KnownRun` answers it of one that is there.

    Args:
        has_server: it is enqueued on a server that is given, not on the folder's own.
    """

    def __init__(self, prepared: PreparedRun, *, has_server: bool) -> None:
        self._prepared = prepared
        self._has_server = has_server
        self._moved: Path | None = None

    @property
    def folder(self) -> Path:
        return self._prepared.folder

    @property
    def sees(self) -> bool:
        return self._prepared.sees

    @property
    def source(self) -> Input:
        return self._prepared.source

    @property
    def rows_read(self) -> int:
        return self._prepared.spec.input_rows

    def make_room(self) -> None:
        """Move what is to be overwritten aside; a server that knows of it does so by itself.

        Raises:
            FolderLockedError: a run is at work there.
        """
        if not self._prepared.overwrite:
            return
        EmbeddedRedis.require_free(own_server(self.folder))
        if not self._has_server:
            self._moved = self._prepared.make_room()
            self._prepared = replace(self._prepared, overwrite=False)

    def enqueue(self, connection: Redis) -> Enqueued:
        """Have the server know the run, and enqueue what is to be done of it."""
        if self._has_server and self._prepared.resume:
            leave_own_server(self.folder, connection)
        enqueued = enqueue_prepared(connection, self._prepared)
        return replace(enqueued, moved=enqueued.moved or self._moved)
