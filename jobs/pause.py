"""`pause_run` and `continue_run`: a run rests, and goes on where it was."""

from __future__ import annotations

from redis import Redis

from jobs.bad_rows import BadRows
from jobs.errors import RunStateError
from jobs.ledger import Halt, Halting, HaltReason, Ledger, RunState
from jobs.producer import Enqueued, resume_run
from jobs.queue.run_jobs import RunJobs


def pause_run(connection: Redis, run_id: str) -> None:
    """Let workers begin no more rows of a run; those under way end and are recorded.

    Raises:
        RunNotFoundError: the server knows no such run.
        RunStateError: it is finished, or halted already.
    """
    progress, halting = Ledger(connection).progress(run_id), Halting(connection)
    if progress.state is RunState.FINISHED:
        raise RunStateError(f"{run_id} is finished: there is nothing to pause")
    command = f"mlx-batch continue {progress.spec.called}"
    is_at_rest = progress.halt is not None and halting.is_previewed(progress.spec)
    if is_at_rest or not halting.halt(run_id, Halt(HaltReason.PAUSED, "by hand")):
        raise RunStateError(f"{run_id} is halted already; `{command}` lets it go on")


def continue_run(connection: Redis, run_id: str) -> Enqueued:
    """Let a halted run go on, with its shards enqueued again; resume one that is not halted.

    Those that workers still have in hand go on there. A preview is over with it, unless the run was
    halted by something else before its rows were done.

    Raises:
        RunNotFoundError: the server knows no such run.
        RunStateError: it is finished.
        InputFileError: it is not halted, and its input is not what it was.
    """
    progress = Ledger(connection).progress(run_id)
    spec = progress.spec
    if progress.state is RunState.FINISHED:
        raise RunStateError(f"{run_id} is finished: nothing of it is left to go on with")
    if progress.halt is None or progress.halt.reason is HaltReason.PREVIEW:
        spec = spec.without_preview()
    jobs = RunJobs(connection, spec)
    if progress.halt is not None:
        Halting(connection).take_up(spec)
        released = jobs.release_parked()
    elif not (released := jobs.release_parked()):  # what a call left that was cut off in between
        return resume_run(connection, run_id)
    return Enqueued(spec, released, BadRows(), None)
