"""RUN, on the command line: a run's name or its dataset's folder, and the Redis that knows it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem
from redis import Redis

from jobs.connection import connect
from jobs.dataset import Dataset
from jobs.errors import LedgerError, RunNotFoundError, RunStateError
from jobs.ledger import Ledger
from jobs.output_folder import refuse_address
from worker.cli.options import url_option
from worker.local.embedded_redis import EmbeddedRedis, is_at_work, living_server, own_server
from worker.local.worker_settings import WorkerSettings
from worker.status.folder_status import folder_status
from worker.status.status import RunStatus, run_status

run_option = url_option(
    "URL of the Redis server, as for `rq` (environment: RQ_REDIS_URL); a folder's own is found."
)


class Server(Enum):
    """Whose Redis knows a run.

    Attributes:
        GIVEN: one that a URL names.
        LIVING: its folder's own, that of `mlx-batch run`, which lives.
        WOKEN: the same, started to be asked.
    """

    GIVEN = auto()
    LIVING = auto()
    WOKEN = auto()


def run_argument(*, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the argument RUN; the shell completes it as a folder."""
    return click.argument(
        "run",
        metavar="RUN" if required else "[RUN]",
        required=required,
        shell_complete=lambda _, __, begun: [CompletionItem(begun, type="dir")],
    )


@dataclass(frozen=True, slots=True)
class RunPlace:
    """A run and where it is known.

    Attributes:
        connection: to a Redis that knows it; None if no living one does.
        folder: of its dataset, if it was given.
        server: whose that Redis is.
    """

    run_id: str
    connection: Redis | None
    folder: Path = Path()
    server: Server = Server.GIVEN

    @property
    def name(self) -> str:
        """What commands call the run."""
        return self.run_id if self.server is Server.GIVEN else shlex.quote(str(self.folder))

    def status(self) -> RunStatus:
        """Return where the run stands, as far as that is known."""
        if self.connection is None:
            status = folder_status(self.folder)
            is_own = WorkerSettings.is_kept(self.folder)
            return replace(status, folder=self.folder, is_asleep=True) if is_own else status
        status = run_status(self.connection, self.run_id)
        if self.server is Server.GIVEN:
            return status
        if self.server is Server.WOKEN:  # the workers that it remembers were killed with it
            status = replace(status, workers={})
        is_awake = self.server is Server.LIVING and is_at_work(own_server(self.folder))
        is_asleep = not is_awake and not status.workers
        if is_asleep:  # what its workers had begun waits for those of the next command
            queued = status.shards["queued"] + status.shards["started"]
            status = replace(status, shards=status.shards | {"queued": queued, "started": 0})
        return replace(status, folder=self.folder, is_asleep=is_asleep)


@contextlib.contextmanager
def find_run(url: str | None, run: str) -> Iterator[RunPlace]:
    """Find a run by its name on the server, or by its folder.

    A folder's own Redis, that of `mlx-batch run`, is asked first: a living one, or else it is
    started for as long as the body takes.

    Raises:
        RunNotFoundError: the folder belongs to no run that is known.
        UsageError: RUN is no folder, and no server is given.
    """
    refuse_address(run, "run")
    folder = Path(run).expanduser()
    with contextlib.ExitStack() as stack:
        if not folder.is_dir() and len(folder.parts) == 1:
            if url is None:
                raise click.UsageError(
                    f"{run} is no folder here, and to ask for the name of a run the URL of its "
                    "Redis is needed: -u, or RQ_REDIS_URL"
                )
            connection = stack.enter_context(connect(url))
            # No worker has made the folder of a run that waits: it looks like a name.
            is_name = Ledger(connection).knows(run)
            named = None if is_name else run_of(connection, folder.absolute())
            yield RunPlace(named or run, connection)
            return
        folder = folder.absolute()
        for server, candidate in _servers(url, folder, stack):
            connection = stack.enter_context(connect(candidate))
            if (run_id := run_of(connection, folder)) is not None:
                yield RunPlace(run_id, connection, folder, server)
                return
        if not Dataset(folder).is_claimed:
            raise RunNotFoundError(
                f"{folder} is the folder of no run: it has no _job/manifest.json"
                + ("" if url else ", and no server was given (-u, or RQ_REDIS_URL)")
            )
        yield RunPlace(Dataset(folder).manifest()["run_id"], None, folder)


def with_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument RUN, as its first two: where the run is, and a Redis that knows.

    Raises:
        UsageError: RUN is a folder whose run no living Redis knows.
        RunStateError: the same, of a run that goes on in its folder only.
    """

    @run_argument()
    @run_option
    @wraps(command)
    def found(url: str | None, run: str, **options: Any) -> Any:
        with find_run(url, run) as place:
            if place.connection is None and WorkerSettings.is_kept(place.folder):
                raise RunStateError(f"{place.folder}: no process is at work on its run")
            if place.connection is None:
                raise unknown(place, command.__name__, url)
            return command(place, place.connection, **options)

    return found


def own_folder(url: str | None, run: str, *, is_here: bool = False) -> Path | None:
    """Return the folder of a run that goes on in there, with a server and workers of its own.

    So does that of `mlx-batch run`, but while a process of ours is at work in there.

    Args:
        is_here: any other does, too.
    """
    folder = Path(run).expanduser().absolute()
    own = own_server(folder)
    if url is not None or not folder.is_dir() or is_at_work(own):
        return None
    return folder if is_here or own.is_dir() or WorkerSettings.is_kept(folder) else None


def unknown(place: RunPlace, command: str, url: str | None) -> click.UsageError:
    """Return the error of a command that needs a server, and is given none that knows the run."""
    who = "the server that is given does not know" if url else "no Redis that is given knows"
    return click.UsageError(
        f"{place.folder} holds {place.run_id}, which {who}: `mlx-batch {command}` needs the one "
        "that it was enqueued on, with -u or RQ_REDIS_URL"
    )


def _servers(
    url: str | None, folder: Path, stack: contextlib.ExitStack
) -> Iterator[tuple[Server, str]]:
    """Yield the servers that may know the run of a folder."""
    own = own_server(folder)
    if (living := living_server(own)) is not None:
        yield Server.LIVING, living
    elif own.is_dir():
        yield Server.WOKEN, stack.enter_context(EmbeddedRedis(own)).url
    if url is not None:
        yield Server.GIVEN, url


def run_of(connection: Redis, folder: Path) -> str | None:
    """Return the run of a folder, if this server knows it."""
    ledger, dataset = Ledger(connection), Dataset(folder)
    if not dataset.is_claimed:
        return ledger.holder(str(folder)) or _held(ledger, folder)
    run_id: str = dataset.manifest()["run_id"]
    return run_id if ledger.knows(run_id) else None


def _held(ledger: Ledger, folder: Path) -> str | None:
    """Return the run that was given this folder by another path to it."""
    there = folder.resolve()
    for run_id in ledger.runs():
        with contextlib.suppress(LedgerError, RunNotFoundError):  # of another run; or it expired
            if Path(ledger.spec(run_id).out).resolve() == there:
                return run_id
    return None
