"""`RunSpec`: what one bulk job is. The ledger keeps it, the dataset's manifest is it."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shlex
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from typing import Any

from pydantic import BaseModel, Field

from jobs.column_types import JSON_TEXT, TypeSpec
from jobs.requests import MAX_SAMPLES
from jobs.run_bounds import RunBounds
from jobs.sources import Format, Input, MediaFiles, Selected, Selection, Template
from jobs.sources.dialect import Dialect
from jobs.sources.templated import dialect_of
from vllm_mlx.content import MediaKind
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.video_params import VideoParams

QUEUE_PREFIX = "mlx-"

_FIRST_SETTINGS = {"max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
_FIRST_SETTINGS |= {"stop", "seed", "logprobs", "stop_on_repetition"}
_IDENTITY = ("model", "out", "shard_size", "n", "chat", "bad_rows")


class InputSpec(BaseModel, frozen=True, extra="forbid"):
    """Where the rows came from, and the content hash that identifies them.

    Attributes:
        path: of a prompt file; of media files, their folder or pattern.
        media: what the files are, if it is no prompt file.
    """

    path: str
    fingerprint: str
    format: Format
    media: MediaKind | None = None

    @classmethod
    def of(cls, source: Input) -> InputSpec:
        """Read the input once for its fingerprint."""
        whole = source.whole if isinstance(source, Selected) else source
        files = whole if isinstance(whole, MediaFiles) else None
        return cls(
            path=str(source.path.absolute()),
            fingerprint=source.fingerprint(),
            format=source.format,
            media=files.kind if files else None,
        )


class RunSpec(BaseModel, frozen=True, extra="forbid"):
    """One input, one model, one set of defaults, one output folder.

    `run_id` is a hash of all that decides the dataset's content, so the same command gives the
    same run.

    Attributes:
        model: the name of its `ModelIdentity`, which each row has, too.
        revision: of that identity. No part of the run's: after the first worker has downloaded a
            model, the same command is still the same run.
        rows: rows of the dataset: the samples of all rows of the input.
        input_rows: rows of the input that the run takes.
        samples: the most that one row of the input has.
        sampling, video_params, n: what holds for a row that does not say it itself; `n` is the
            number of its samples.
        template: what made the requests of the rows, if they were none themselves.
        retry_incomplete: a constrained answer that `max_tokens` cut is tried again with more.
        selection: which rows of the input it takes; all without one.
        drawn_from: of how many rows of the input a sample was drawn.
        duplicates: rows of the input that get the answer of an earlier one, as they ask the same.
        parsed: the type of the answers that are JSON.
        preview_rows: rows of the dataset that those of `bounds.preview` make.
        bounds: what ends it early; as it is no part of the content, none of the identity.
    """

    run_id: str
    model: str
    revision: str | None = None
    out: str
    input: InputSpec
    rows: int = Field(ge=1)
    input_rows: int = Field(ge=1)
    samples: int = Field(1, ge=1)
    bad_rows: int = 0
    shard_size: int = Field(ge=1)
    shards: int = Field(ge=1)
    sampling: SamplingParams
    video_params: VideoParams = VideoParams.of()
    n: int = Field(1, ge=1, le=MAX_SAMPLES)
    chat: bool = False
    template: Template | None = None
    retry_incomplete: bool = False
    columns: dict[str, TypeSpec]
    selection: Selection | None = None
    drawn_from: int | None = None
    duplicates: int = 0
    parsed: TypeSpec = JSON_TEXT
    bounds: RunBounds = RunBounds.of()
    preview_rows: int = Field(0, ge=0)
    created_at: str
    versions: dict[str, str]

    @classmethod
    def create(cls, **fields: Any) -> RunSpec:
        """Return a spec with what follows from its fields: id, shard count, time, versions."""
        identity = {key: fields[key] for key in _IDENTITY}
        identity["input"] = [fields["input"].fingerprint, fields["input"].format]
        identity["sampling"] = _sampling_identity(fields["sampling"])
        video_params = fields.get("video_params", VideoParams.of())
        if video_params != VideoParams.of():  # runs from before there were videos keep their ids
            identity["video_params"] = video_params.model_dump(mode="json")
        if (template := fields.get("template")) is not None:
            identity["template"] = template.model_dump(mode="json")
        if (selection := fields.get("selection")) is not None:
            identity["selection"] = selection.model_dump(mode="json")
        if fields.get("retry_incomplete"):
            identity["retry_incomplete"] = True
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return cls(
            run_id=f"run-{digest[:12]}",
            shards=-(-fields["rows"] // fields["shard_size"]),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={
                "mlx-batch": metadata.version("mlx-batch"),
                "python": platform.python_version(),
            },
            **fields,
        )

    @cached_property
    def dialect(self) -> Dialect:
        """What the objects of its rows say."""
        return dialect_of(self.input.format, self.template)

    @property
    def called(self) -> str:
        """What commands take for the run: its folder, which also finds a server of its own."""
        return shlex.quote(self.out)

    @property
    def queue(self) -> str:
        return queue_name(self.model)

    @property
    def finalize_id(self) -> str:
        return f"{self.run_id}-finalize"

    def shard_id(self, shard: int) -> str:
        """Return the RQ job id of a shard."""
        return f"{self.run_id}-{shard:05d}"

    def shard_rows(self, shard: int) -> range:
        """Return the rows of a shard, counted through the whole dataset."""
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, self.rows))

    def without_preview(self) -> RunSpec:
        bounds = self.bounds.model_copy(update={"preview": None})
        return self.model_copy(update={"bounds": bounds, "preview_rows": 0})

    def manifest(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def _sampling_identity(sampling: SamplingParams) -> dict[str, Any]:
    # Runs from before there was a setting keep their ids.
    settings, defaults = (
        sampling.model_dump(mode="json"),
        SamplingParams.of().model_dump(mode="json"),
    )
    return {
        name: value
        for name, value in settings.items()
        if name in _FIRST_SETTINGS or value != defaults[name]
    }


def queue_name(model: str) -> str:
    """Return the queue of a model, by the name of its identity."""
    return QUEUE_PREFIX + re.sub(r"[^A-Za-z0-9_.@+-]+", "--", model)
