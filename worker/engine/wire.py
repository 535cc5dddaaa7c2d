"""What a worker and its engine's process say to each other: JSON, one message a line.

The worker says `Setup` once and then `Order`s, the process answers with `Report`s. Rows cross, not
tokens. Python's `json` writes the orders, since a prompt may hold what is no UTF-8 and must fail as
it does in the worker's own process; outputs have their own codec.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vllm_mlx import errors
from vllm_mlx.batching.prompts import MediaPrompt, Prompt
from vllm_mlx.errors import MLXBatchError
from vllm_mlx.json_record import JSONRecord
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.outputs import EngineStats, GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.video_params import VideoParams


@dataclass(frozen=True, slots=True)
class Setup:
    """What the process is started for.

    Attributes:
        make: `module:function`, which makes the engine of a setup.
        scratch: a folder for temporary files, which is removed when the process has died.
    """

    make: str
    model: str
    config: SchedulerConfig
    media: MediaPolicy
    verbose: bool = False
    scratch: str | None = None

    def encode(self) -> bytes:
        return _line(asdict(self) | {"config": self.config.model_dump()})

    @classmethod
    def decode(cls, line: bytes) -> Setup:
        said = json.loads(line)
        media = {name: _as_tuple(value) for name, value in said.pop("media").items()}
        if media["allowed_paths"]:
            media["allowed_paths"] = tuple(map(Path, media["allowed_paths"]))
        config = SchedulerConfig(**said.pop("config"))
        return cls(config=config, media=MediaPolicy(**media), **said)


class Asked(NamedTuple):
    """A prompt and the samples of it that are wanted: each with its key, which names its answer."""

    prompt: Prompt
    samples: list[tuple[int, SamplingParams]]


@dataclass(frozen=True, slots=True)
class Order:
    """What the process is to do.

    Attributes:
        asked: rows to answer.
        cancelled: keys of rows whose answers nobody waits for any more.
        stop: end.
    """

    asked: tuple[Asked, ...] = ()
    cancelled: tuple[int, ...] = ()
    stop: bool = False

    @classmethod
    def decode(cls, line: bytes) -> Order:
        said = json.loads(line)
        asked = [
            Asked(_prompt(prompt), [(key, SamplingParams.model_validate(p)) for key, p in samples])
            for prompt, samples in said.get("asked", ())
        ]
        return cls(tuple(asked), tuple(said.get("cancelled", ())), said.get("stop", False))


def encode_prompt(prompt: Prompt) -> str:
    """A prompt as it stands in an order.

    Raises:
        TypeError, ValueError: JSON can't say it.
    """
    if isinstance(prompt, MediaPrompt):
        video = prompt.video.model_dump()
        return json.dumps({"messages": prompt.messages, "video": video})
    return json.dumps(prompt)


def encode_params(params: SamplingParams) -> str:
    """What of the parameters is no default."""
    return json.dumps(params.model_dump(exclude_defaults=True))


def cancel(keys: Iterable[int]) -> bytes:
    """The order to forget rows."""
    return _line({"cancelled": list(keys)})


STUCK_CODE = 70  # of a process that ends because its engine hangs
STOP = b'{"stop":true}\n'


class Failure(NamedTuple):
    """Why an engine can't be started: an error's class and message."""

    name: str
    message: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        return cls(type(error).__name__, str(error))

    @property
    def error(self) -> MLXBatchError:
        """The error again; a class that isn't ours is named in the message."""
        kind = getattr(errors, self.name, None)
        if isinstance(kind, type) and issubclass(kind, MLXBatchError):
            return kind(self.message)
        return MLXBatchError(f"{self.name}: {self.message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(JSONRecord):
    """What the process tells.

    Attributes:
        ready: the engine runs with so many places.
        failed: it can't be started.
        began: rows that the engine has begun to work on.
        answers: rows that ended, by key.
        stats: the engine's counts.
    """

    ready: int | None = None
    failed: Failure | None = None
    began: tuple[int, ...] = ()
    answers: tuple[tuple[int, GenerationOutput], ...] = ()
    stats: EngineStats | None = None


def _line(said: Any) -> bytes:
    return json.dumps(said, default=str).encode() + b"\n"


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _prompt(said: Any) -> Prompt:
    if isinstance(said, dict):
        return MediaPrompt(said["messages"], VideoParams.model_validate(said["video"]))
    prompt: Prompt = said
    return prompt
