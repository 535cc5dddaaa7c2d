"""`KnownRun`: a run that was begun, and what lets it go on; `NewRun` is one that is prepared."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from redis import Redis

from jobs.adopt import adopt_run, move_run
from jobs.connection import connect
from jobs.dataset import Dataset
from jobs.errors import RunNotFoundError
from jobs.ledger import Ledger
from jobs.model_identity import identify
from jobs.producer import Enqueued, forget_run
from vllm_mlx.errors import InvalidRequestError
from worker.local.embedded_redis import EmbeddedRedis, own_server
from worker.local.worker_settings import WorkerSettings

Act = Callable[[Redis, str], Enqueued]
"""What enqueues again what is to be done: it is given the server, and the run's name."""


def leave_own_server(out: Path, connection: Redis) -> None:
    """Have a server know what a folder's own one does, the data of which is removed then.

    Raises:
        FolderLockedError: the run is at work there.
    """
    own, dataset = own_server(out), Dataset(out)
    if own.is_dir():
        with EmbeddedRedis(own) as server, connect(server.url) as old:
            if dataset.is_claimed and not Ledger(connection).knows(dataset.manifest()["run_id"]):
                move_run(old, connection, out)
        shutil.rmtree(own, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run of which a folder is left, and perhaps the data of its own server in there.

    Attributes:
        folder: of the dataset.
        act: lets it go on.
        settings: what its workers will be told.
        sees: its model does if it needs to, which was looked at when the run was new.
        source, rows_read: its input is not looked at again but by `act`.
    """

    folder: Path
    act: Act
    settings: WorkerSettings
    sees: ClassVar[bool] = False
    source: ClassVar[None] = None
    rows_read: ClassVar[int] = 0

    def make_room(self) -> None:
        """Leave the folder as it is: the run goes on in it."""

    def enqueue(self, connection: Redis) -> Enqueued:
        """Have the folder's own server know the run, and let it go on.

        Raises:
            RunNotFoundError: the folder is that of no run.
            InvalidRequestError: the workers would load another model.
        """
        ledger = Ledger(connection)
        run_id = self._run_of(ledger)
        if run_id is not None and ledger.spec(run_id).out != str(self.folder):
            forget_run(connection, run_id)  # the folder was moved: what lies in it is what is done
            run_id = None
        if run_id is None:
            run_id = adopt_run(connection, self.folder).run_id
        model, settings = ledger.spec(run_id).model, self.settings
        if (given := identify(settings.model, settings.adapter).name) != model:
            raise InvalidRequestError(
                f"{self.folder} is made with {model}, and {settings.model} is {given} here: name "
                "the former with --model (and --adapter)"
            )
        return self.act(connection, run_id)

    def _run_of(self, ledger: Ledger) -> str | None:
        dataset = Dataset(self.folder)
        if dataset.is_claimed:
            named: str = dataset.manifest()["run_id"]
            return named if ledger.knows(named) else None
        if (holder := ledger.holder(str(self.folder))) is None:
            raise RunNotFoundError(f"{self.folder} is the folder of no run that was begun")
        return holder
