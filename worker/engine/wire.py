"""What a worker and its engine's process send each other: one message a line, in JSON.

The worker sends a `Setup` and then `Order`s, the process answers with `EngineEvent`s. Rows cross,
not tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from vllm_mlx import errors
from vllm_mlx.batching.prompts.prompt import MediaPrompt, Prompt
from vllm_mlx.errors import MLXBatchError
from vllm_mlx.json_record import JSONRecord
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.outputs import EngineStats, GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig

STUCK_CODE = 70  # of a process that ends because its engine hangs
_MEDIA_PROMPT = TypeAdapter(MediaPrompt)


@dataclass(frozen=True, slots=True)
class Setup(JSONRecord):
    """What the process is started for.

    Attributes:
        make: `module:function`, which makes the engine of a setup.
        model: its name in outputs.
        source: what is loaded.
        adapter_path: the folder of what is put into it.
        scratch: a folder for temporary files, which is removed when the process has died.
    """

    make: str
    model: str
    source: str
    config: SchedulerConfig
    media: MediaPolicy
    verbose: bool = False
    scratch: str | None = None
    adapter_path: str | None = None

    # With Python's `json`, which keeps a path that is no UTF-8 as it is.

    def encode(self) -> bytes:
        return json.dumps(self.adapter().dump_python(self, mode="json")).encode()

    @classmethod
    def decode(cls, raw: bytes | str) -> Setup:
        setup: Setup = cls.adapter().validate_python(json.loads(raw))
        return setup


def encode_prompt(prompt: Prompt) -> str:
    """Return a prompt as it stands in an order; half a surrogate pair, no UTF-8, stays as it is.

    Raises:
        TypeError, ValueError: JSON can't hold it.
    """
    value = _MEDIA_PROMPT.dump_python(prompt) if isinstance(prompt, MediaPrompt) else prompt
    return json.dumps(value)


def decode_prompt(text: str) -> Prompt:
    """Return what `encode_prompt` wrote."""
    value: Any = json.loads(text)
    prompt: Prompt = _MEDIA_PROMPT.validate_python(value) if isinstance(value, dict) else value
    return prompt


class Asked(NamedTuple):
    """A prompt, as `encode_prompt` writes it, and its samples by the keys of their answers."""

    prompt: str
    samples: dict[int, SamplingParams]


@dataclass(frozen=True, slots=True)
class Order(JSONRecord):
    """What the process is to do.

    Attributes:
        asked: rows to answer.
        cancelled: keys of rows whose answers are no longer wanted.
        stop: end.
    """

    asked: tuple[Asked, ...] = ()
    cancelled: tuple[int, ...] = ()
    stop: bool = False


class Failure(NamedTuple):
    """Why an engine can't be started: an error's class and message."""

    name: str
    message: str

    @property
    def error(self) -> MLXBatchError:
        """The error again; a class that isn't ours is named in the message."""
        kind = getattr(errors, self.name, None)
        if isinstance(kind, type) and issubclass(kind, MLXBatchError):
            return kind(self.message)
        return MLXBatchError(f"{self.name}: {self.message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEvent(JSONRecord):
    """What has happened in the process.

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
