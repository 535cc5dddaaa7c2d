"""What is left of a run that fails before any of it has begun: nothing."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis

from jobs.dataset import Dataset
from jobs.errors import RunHaltedError
from jobs.producer import forget_run
from jobs.run_spec import RunSpec
from vllm_mlx.errors import MLXBatchError
from worker.local.run_result import RunResult
from worker.status.status import run_status


class RunFailedError(MLXBatchError):
    """A worker ended, or a job failed for good, before the run was complete.

    Attributes:
        result: what there is of it; None where no row is.
    """

    result: RunResult | None = None


@contextmanager
def nothing_left_of_a_failed_start(out: Path) -> Iterator[Callable[[], None]]:
    """Remove what was made in a new folder if an error comes before a worker has claimed it.

    So does Ctrl-C, or another signal, before the call that is given: that workers start.
    """
    job = out / "_job"
    if job.exists():  # of a run that was begun
        yield lambda: None
        return
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    has_workers = False

    def keep() -> None:
        nonlocal has_workers
        has_workers = True

    try:
        yield keep
    except RunHaltedError:  # it can go on
        raise
    except BaseException as error:
        is_signal = not isinstance(error, Exception)
        if not Dataset(out).is_claimed and not (is_signal and has_workers):
            shutil.rmtree(job, ignore_errors=True)
            with contextlib.suppress(OSError):  # files of others are in it by now
                for folder in made:
                    folder.rmdir()
        raise


@contextmanager
def no_new_server_left(own: Path) -> Iterator[Callable[[], None]]:
    """Remove the data of a server if it is new and an error comes before the call that is given."""
    is_kept = own.exists()

    def keep() -> None:
        nonlocal is_kept
        is_kept = True

    try:
        yield keep
    except BaseException:  # Ctrl-C among them
        if not is_kept:
            shutil.rmtree(own, ignore_errors=True)
        raise


@contextmanager
def forgotten_if_not_begun(connection: Redis, spec: RunSpec) -> Iterator[None]:
    """Have the server forget the run if the workers fail before anybody has begun it."""
    try:
        yield
    except RunFailedError:
        status = run_status(connection, spec.run_id)
        begun = status.rows_done or status.shards["done"] or status.shards["started"]
        if not begun and not Dataset(Path(spec.out)).is_claimed:
            forget_run(connection, spec.run_id)
        raise
