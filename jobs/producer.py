"""From an input to RQ jobs: survey all of it, then enqueue it shard by shard."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from redis import Redis

from jobs.dataset import Dataset
from jobs.errors import InputFileError, RunExistsError
from jobs.ledger import Ledger, RunState
from jobs.model_identity import ModelIdentity, identify
from jobs.output_folder import output_folder
from jobs.queue.run_jobs import RunJobs
from jobs.requests import MAX_SAMPLES
from jobs.run_spec import InputSpec, RunSpec
from jobs.shards import Shard, shards_of
from jobs.sources import Input, MediaFiles, SourceRow, input_of
from jobs.sources.template import template_of
from jobs.survey import survey_input
from vllm_mlx.errors import InvalidRequestError, ModelLoadError
from vllm_mlx.parameters import whole
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.video_params import VideoParams

DEFAULT_SHARD_SIZE = 128
ENQUEUE_BATCH = 100  # jobs a round trip; more gains nothing (measured)


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What `enqueue_run` did.

    Attributes:
        shards: how many it enqueued; 0 if there was nothing left to do.
        bad_rows: the first of them.
        folder: the input's; its relative paths of images and videos start there.
    """

    spec: RunSpec
    shards: int
    bad_rows: list[SourceRow]
    folder: Path


def enqueue_run(
    connection: Redis,
    path: str | Path | None = None,
    *,
    model: str,
    out: str | Path,
    adapter: str | Path | None = None,
    videos: str | Path | None = None,
    images: str | Path | None = None,
    prompt: str | None = None,
    system: str | None = None,
    messages: str | list[dict[str, Any]] | None = None,
    id_column: str | None = None,
    image_column: str | None = None,
    video_column: str | None = None,
    sampling: SamplingParams | None = None,
    video_params: VideoParams | None = None,
    n: int = 1,
    chat: bool | None = None,
    shard_size: int = DEFAULT_SHARD_SIZE,
    skip_bad_rows: bool = False,
    retry_incomplete: bool = False,
    resume: bool = False,
) -> Enqueued:
    """Validate a whole input, then enqueue it for the workers of a model.

    Args:
        path: JSONL, OpenAI-batch JSONL, CSV, Parquet or text, recognised by `detect_format`.
        model: whose workers answer, as they name it; where only they have its folder, the name
            that they log when they start.
        out: the dataset's folder, as the workers see it.
        adapter: a folder that mlx_lm.lora has written; its workers have it, too.
        videos: in place of a prompt file, a folder of such files or a pattern
            (`clips/**/*.mp4`); each file makes a row, in which `prompt` or `messages` ask of it.
        images: the same of images.
        prompt, system, messages, id_column, image_column, video_column: make requests of the
            input's columns, see `Template`.
        sampling, video_params: defaults for what a row does not say itself.
        n: samples of a row that does not say itself how many; each is a row of the dataset.
        chat: send each plain prompt as the user's message through the chat template; so a
            `prompt` from here is sent unless this is False.
        shard_size: samples a job.
        skip_bad_rows: bad rows become error rows of the dataset instead of refusing the file.
        retry_incomplete: try a constrained answer that `max_tokens` cut again with twice as many,
            and once more with four times as many.
        resume: the run exists; enqueue what is neither done nor on its way.

    Raises:
        InputFileError: the file can't be read, or holds bad rows; nothing is enqueued.
        InvalidRequestError: `n` is out of range, not exactly one input is given, or the model is
            a path that is not there.
        RunExistsError: this run was enqueued before, and `resume` is not set; or its folder is
            another run's.
        DatasetError: the output folder, seen from here, belongs to another run.
    """
    template = template_of(
        prompt=prompt,
        system=system,
        messages=messages,
        id_column=id_column,
        image_column=image_column,
        video_column=video_column,
    )
    source = input_of(path, videos=videos, images=images, template=template)
    sees = isinstance(source, MediaFiles)
    chat = template.check_chat(chat, sees=sees) if template else bool(chat)
    version = source.version()
    folder = output_folder(out)
    n = whole(n)
    if type(n) is not int or not 1 <= n <= MAX_SAMPLES:
        raise InvalidRequestError(f"n={n!r}: should be 1 to {MAX_SAMPLES}")
    sampling = sampling or SamplingParams.of()
    identity = _identify(model, adapter)
    known = InputSpec.of(source)
    survey = survey_input(source, sampling, n, chat=chat)
    if survey.bad_rows and not skip_bad_rows:
        raise survey.refuse(source.path)
    spec = RunSpec.create(
        model=identity.name,
        revision=identity.revision,
        out=str(folder),
        input=known,
        shard_size=shard_size,
        sampling=sampling,
        video_params=video_params or VideoParams.of(),
        n=n,
        chat=chat,
        template=template,
        retry_incomplete=retry_incomplete,
        rows=survey.samples,
        input_rows=survey.rows,
        samples=survey.most_samples,
        bad_rows=survey.bad_rows,
        columns=survey.columns.types,
        parsed=survey.parsed.type,
    )
    shards = 0
    if not _is_finished_here(spec, resume=resume):
        shards = _enqueue(connection, spec, shards_of(source, spec, version), resume=resume)
    return Enqueued(spec, shards, survey.first_bad, source.folder)


def resume_run(connection: Redis, run_id: str) -> Enqueued:
    """Enqueue again what of a run is neither done nor on its way; its input is read again.

    Raises:
        RunNotFoundError: the server knows no such run.
        InputFileError: the input can't be read, or is not what the run was made of.
    """
    spec = Ledger(connection).spec(run_id)
    source = _input_again(spec)
    payloads = shards_of(source, spec, source.version())
    shards = _enqueue(connection, spec, payloads, resume=True)
    return Enqueued(spec, shards, [], source.folder)


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


def _identify(model: str, adapter: str | Path | None) -> ModelIdentity:
    try:
        return identify(model, adapter)
    except ModelLoadError as error:
        adapted = "" if adapter is None else " in place of both, model+adapter@0123456789ab"
        raise InvalidRequestError(
            f"model={model!r}: {error}. Where only the workers have it, give the name that they "
            f"log when they start, such as{adapted or ' model@0123456789ab'}"
        ) from error


def _input_again(spec: RunSpec) -> Input:
    path, kind = spec.input.path, spec.input.media
    named = {f"{kind}s" if kind else "path": path}
    source = input_of(**named, template=spec.template)
    found = InputSpec.of(source)
    if (found.fingerprint, found.format) != (spec.input.fingerprint, spec.input.format):
        raise InputFileError(
            f"{path} is not what {spec.run_id} was made of: that was {spec.input.fingerprint}, "
            f"this is {found.fingerprint}. Put the old file back, or enqueue this one as a run of "
            "its own"
        )
    return source


def _is_finished_here(spec: RunSpec, *, resume: bool) -> bool:
    """Return whether this machine sees the run's dataset, whole."""
    dataset = Dataset(Path(spec.out))
    if not dataset.is_claimed:
        return False
    dataset.check_holder(spec.run_id)
    if dataset.is_finished and not resume:
        raise RunExistsError(
            f"{spec.out} holds this very run, finished; to run it again, delete the folder, and "
            f"if the server still knows the run: mlx-batch forget {spec.run_id}"
        )
    return dataset.is_whole(spec.shards)


def _enqueue(connection: Redis, spec: RunSpec, payloads: Iterable[Shard], *, resume: bool) -> int:
    ledger = Ledger(connection)
    if not ledger.create(spec, time.time()):
        if not resume:
            raise RunExistsError(
                f"{spec.run_id} was enqueued before: `mlx-batch status {spec.run_id}` shows it; "
                f"--resume enqueues what is missing of it, "
                f"`mlx-batch forget {spec.run_id}` makes it new"
            )
        if not _reopen(ledger, spec):
            return 0
        ledger.take_up(spec.run_id)
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
