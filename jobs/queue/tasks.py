"""The two kinds of RQ job, as data: what is in them and how they are recognised.

A job names its task by a string that is compared, never imported. The functions of those names
exist only for the error message when a stock `rq worker` picks one up.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NoReturn

from pydantic import BaseModel, Field, ValidationError
from rq.exceptions import DeserializationError
from rq.job import Job

from jobs.errors import JobPayloadError
from jobs.requests import MAX_SAMPLES
from vllm_mlx.parameters import describe

GENERATE_SHARD = "jobs.queue.tasks.generate_shard"
FINALIZE_RUN = "jobs.queue.tasks.finalize_run"


class ShardRow(BaseModel, frozen=True, extra="forbid"):
    """One input row on its way to the worker: raw as it stood in the file.

    A bad row comes with what is wrong with it, and with an id that is free.

    Attributes:
        sample_index: the first of its samples that the shard has.
        samples: how many the shard has, from that one on.
        same_as: the position of an earlier row of the run that asks the same.
        has_same: whether later rows ask the same as this one.
    """

    row: int = Field(ge=0)
    data: dict[str, Any]
    error: str | None = None
    id: str | None = None
    sample_index: int = Field(0, ge=0)
    samples: int = Field(1, ge=1, le=MAX_SAMPLES)
    same_as: int | None = Field(None, ge=0)
    has_same: bool = False


class GenerateShard(BaseModel, frozen=True, extra="forbid"):
    """Payload of a shard: rows of one run, some with several samples.

    Attributes:
        folder: what the rows' relative paths of images and videos are relative to. It is the
            producer's, so that workers see the files that it saw.
    """

    run_id: str
    shard: int = Field(ge=0)
    rows: list[ShardRow] = Field(min_length=1)
    folder: str | None = None

    @cached_property
    def samples(self) -> list[tuple[ShardRow, int]]:
        """Each row of the dataset that the shard makes: a row of the input and its sample index."""
        return [(row, row.sample_index + nth) for row in self.rows for nth in range(row.samples)]


class FinalizeRun(BaseModel, frozen=True, extra="forbid"):
    """Payload of a run's last job: verify the dataset and write `_SUCCESS`."""

    run_id: str


Task = GenerateShard | FinalizeRun
_PAYLOADS: dict[str, type[GenerateShard] | type[FinalizeRun]] = {
    GENERATE_SHARD: GenerateShard,
    FINALIZE_RUN: FinalizeRun,
}


def read_task(job: Job) -> Task:
    """Return the payload of an RQ job, checked field by field; nothing it names is imported.

    Raises:
        JobPayloadError: it is not a job of ours, or not as this version writes it.
    """
    try:
        name, instance, args, kwargs = job.func_name, job.instance, job.args, job.kwargs
    except DeserializationError:
        raise JobPayloadError(
            "the job's data is not JSON; it was not written by mlx-batch"
        ) from None
    payload = _PAYLOADS.get(name) if isinstance(name, str) else None
    if payload is None:
        raise JobPayloadError(f"this worker runs mlx-batch jobs only, not {name!r}")
    if instance is not None or args:
        raise JobPayloadError(f"a {name} job has keyword arguments only")
    if any(getattr(job, f"_{kind}_callback_name") for kind in ("success", "failure", "stopped")):
        raise JobPayloadError(f"a {name} job has no callbacks")
    try:
        return payload.model_validate(kwargs)
    except ValidationError as error:
        raise JobPayloadError(f"{name}: {describe(error, payload)}") from None


def generate_shard(**_: Any) -> NoReturn:
    """Refuse to run on a stock RQ worker."""
    raise JobPayloadError("this job needs `mlx-batch worker`, not `rq worker`")


finalize_run = generate_shard
