"""From a prepared run to RQ jobs, shard by shard."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Unpack

from redis import Redis

from jobs.adopt import adopt_run
from jobs.bad_rows import BadRows
from jobs.connection import largest_value, require_suitable
from jobs.dataset import Dataset
from jobs.duplicates import Duplicates, find_duplicates
from jobs.errors import InputFileError, RunExistsError, RunStateError, UnsuitableServerError
from jobs.ledger import Halting, Ledger, RunState
from jobs.occupied_folder import check_server
from jobs.preparation import PreparedRun, RunOptions, prepare_run
from jobs.queue.run_jobs import RunJobs, stored_size
from jobs.run_spec import InputSpec, RunSpec
from jobs.shards import Shard, shards_of
from jobs.sources import Input, input_of
from jobs.survey import survey_input

ALWAYS_TAKEN = 1 << 20  # bytes; no server can be set to take less as one value
ENQUEUE_BATCH = 100  # jobs a round trip; more gains nothing (measured)


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What `enqueue_run` did.

    Attributes:
        shards: how many it enqueued; 0 if there was nothing left to do.
        folder: the input's; its relative paths of images and videos start there. None if the input
            was not looked at.
        moved: where the folder that was overwritten is now.
    """

    spec: RunSpec
    shards: int
    bad_rows: BadRows
    folder: Path | None
    moved: Path | None = None


def enqueue_run(
    connection: Redis, path: str | Path | None = None, **options: Unpack[RunOptions]
) -> Enqueued:
    """Validate a whole input, then enqueue it for the workers of a model.

    Args:
        path: JSONL, OpenAI-batch JSONL, CSV, Parquet or text, recognised by `detect_format`.
        **options: see `RunOptions`.

    Raises:
        InputFileError: the file can't be read, or holds bad rows; nothing is enqueued.
        InvalidRequestError: an option is out of range or unknown, not exactly one input is given,
            or the model is a path that is not there.
        RunExistsError: this run was enqueued before, and `resume` is not set; or its folder is
            another run's.
        RunStateError: the run that is to be overwritten is still at work.
        OutputTakenError: the output folder, seen from here, belongs to another run.
    """
    return enqueue_prepared(connection, prepare_run(path, **options))


def enqueue_prepared(connection: Redis, prepared: PreparedRun) -> Enqueued:
    """Enqueue a run that was prepared; raises what `enqueue_run` raises of the server."""
    require_suitable(connection)
    _require_room(connection, prepared)
    spec, shards, moved = prepared.spec, 0, None
    if prepared.overwrite:
        _forget_holder(connection, spec)
        moved = prepared.make_room()
    else:
        check_server(Ledger(connection), spec)
    if not prepared.is_done:
        is_begun = prepared.resume and Dataset(prepared.folder).is_claimed
        if is_begun and not Ledger(connection).knows(spec.run_id):
            adopt_run(connection, prepared.folder)
        payloads = shards_of(prepared.source, spec, prepared.version, prepared.duplicates)
        shards = _enqueue(connection, spec, payloads, resume=prepared.resume)
    return Enqueued(spec, shards, prepared.bad_rows, prepared.source.folder, moved)


def _require_room(connection: Redis, prepared: PreparedRun) -> None:
    """Refuse jobs that are larger than what a server takes as one value.

    Raises:
        UnsuitableServerError: one is; nothing is enqueued.
    """
    if prepared.largest_job < ALWAYS_TAKEN or prepared.largest_job < (
        most := largest_value(connection)
    ):
        return
    source, spec = prepared.source, prepared.spec
    for shard, payload in shards_of(source, spec, prepared.version, prepared.duplicates):
        size = stored_size(payload)
        if size > most:
            rows = spec.shard_rows(shard)
            fewer = max(1, len(rows) * most // (2 * size))
            raise UnsuitableServerError(
                f"rows {rows.start} to {rows.stop - 1} make a job of {size:,} bytes, and the "
                f"server takes {most:,} (proto-max-bulk-len): give a --shard-size of {fewer}, or "
                "name images and videos by their paths"
            )


def resume_run(connection: Redis, run_id: str, source: Input | None = None) -> Enqueued:
    """Enqueue again what of a run is neither done nor on its way; its input is read again.

    Args:
        source: what `input_again` has returned.

    Raises:
        RunNotFoundError: the server knows no such run.
        InputFileError: the input can't be read, or is not what the run was made of.
    """
    spec = Ledger(connection).spec(run_id)
    if Halting(connection).is_previewed(spec):
        spec = spec.without_preview()
    source = source or input_again(spec)
    payloads = shards_of(source, spec, source.version(), _duplicates_again(source, spec))
    shards = _enqueue(connection, spec, payloads, resume=True)
    return Enqueued(spec, shards, BadRows(), source.folder)


def forget_run(connection: Redis, run_id: str) -> int:
    """Remove a run's jobs and record from the server; its dataset stays. Returns how many jobs.

    Raises:
        RunNotFoundError: the server knows no such run.
    """
    ledger = Ledger(connection)
    spec = ledger.spec(run_id)
    jobs = RunJobs(connection, spec).delete()
    ledger.forget(run_id)
    return jobs


def _forget_holder(connection: Redis, spec: RunSpec) -> None:
    """Make the server forget the run that has the folder.

    Raises:
        RunStateError: it is at work.
    """
    ledger = Ledger(connection)
    if (holder := ledger.holder(spec.out)) is None:
        return
    if ledger.progress(holder).state is not RunState.FINISHED:
        raise RunStateError(
            f"{spec.out} is the folder of {holder} on this server, which has not ended, and "
            f"--overwrite takes the place of none that may be at work: `mlx-batch forget "
            f"{spec.called}` gives that run up, and then --overwrite will do; "
            f"`mlx-batch status {spec.called}` shows where it is"
        )
    forget_run(connection, holder)


def input_again(spec: RunSpec) -> Input:
    """Return the input of a run, which must be what it was.

    Raises:
        InputFileError: it can't be read, or is another one.
    """
    path, kind = spec.input.path, spec.input.media
    named = {f"{kind}s" if kind else "path": path}
    source = input_of(**named, template=spec.template, selection=spec.selection)
    found = InputSpec.of(source)
    if (found.fingerprint, found.format) != (spec.input.fingerprint, spec.input.format):
        raise InputFileError(
            f"{path} is not what {spec.run_id} was made of: that was {spec.input.fingerprint}, "
            f"this is {found.fingerprint}. Put the old file back, or enqueue this one as a run of "
            "its own"
        )
    return source


def _duplicates_again(source: Input, spec: RunSpec) -> Duplicates:
    if not spec.duplicates:
        return {}
    survey = survey_input(source, spec.sampling, spec.n, chat=spec.chat, shard_size=spec.shard_size)
    return find_duplicates(
        source,
        survey.suspects.rows(),
        sampling=spec.sampling,
        video_params=spec.video_params,
        n=spec.n,
    )


def _enqueue(connection: Redis, spec: RunSpec, payloads: Iterable[Shard], *, resume: bool) -> int:
    ledger = Ledger(connection)
    if not ledger.create(spec, time.time()):
        if not resume:
            raise RunExistsError(
                f"{spec.run_id} was enqueued before: `mlx-batch status {spec.called}` shows it; "
                f"--resume enqueues what is missing of it, "
                f"`mlx-batch forget {spec.called}` makes it new"
            )
        if not _reopen(ledger, spec):
            return 0
        known = ledger.spec(spec.run_id)
        asked = {"bounds": spec.bounds, "preview_rows": spec.preview_rows}
        Halting(connection).take_up(known.model_copy(update=asked))
    done = ledger.done_shards(spec.run_id)
    jobs = RunJobs(connection, spec)
    jobs.defer_finalize(release=len(done) == spec.shards)
    enqueued = jobs.release_parked() if resume else 0
    todo = ((shard, payload) for shard, payload in payloads if shard not in done)
    while batch := list(islice(todo, ENQUEUE_BATCH)):
        enqueued += jobs.enqueue_missing(batch)
    return enqueued


def _reopen(ledger: Ledger, spec: RunSpec) -> bool:
    """Let a run go on, without the shards whose parts are lost; False if nothing is missing.

    Parts can be missed only where the folder is to be seen from here.
    """
    dataset = Dataset(Path(spec.out))
    is_finished = ledger.progress(spec.run_id).state is RunState.FINISHED
    if not dataset.is_claimed:
        return not is_finished
    if is_finished and dataset.is_whole(spec.shards):
        return False
    lost = dataset.lost_shards(ledger.done_shards(spec.run_id), spec.shards)
    if is_finished or lost:  # a run that goes on may end this very moment
        ledger.reopen(spec.run_id, {shard: {} for shard in lost})
    return True
