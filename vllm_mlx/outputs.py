"""What an engine says: `GenerationOutput`, the one output type from the model to the Parquet row,
and `EngineStats`, its counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class GenerationOutput:
    """What a model made of one prompt, or, in a stream, the next piece of it.

    Attributes:
        text: the generated text, without the end token and the stop string. In a stream: what is
            new since the chunk before; the chunks of a stream joined are the whole text.
        prompt_tokens: tokens of the prompt as the model read it, template included.
        completion_tokens: tokens the model produced so far, the end token included.
        finish_reason: `"stop"` (end token or stop string), `"length"` (`max_tokens` or the end of
            the model's context), `"error"` (see `error`), or None on all but a stream's last chunk.
        model: the model's name as it was asked for.
        seed: the seed this text was sampled with; None for greedy decoding.
        cached_tokens: prompt tokens that were not computed again because another prompt
            shared them.
        latency_s: seconds from submission to the last token, waiting included.
        error_type: class name of the error, for `finish_reason == "error"`.
        error: its message.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: FinishReason | None = None
    model: str = ""
    seed: int | None = None
    cached_tokens: int = 0
    latency_s: float = 0.0
    error_type: str | None = None
    error: str | None = None

    @classmethod
    def from_error(cls, error: BaseException, model: str = "") -> GenerationOutput:
        """The output of a request that failed."""
        return cls(
            text="",
            finish_reason="error",
            model=model,
            error_type=type(error).__name__,
            error=str(error),
        )


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts since an engine started, and what it holds now.

    Attributes:
        running: sequences in the batch.
        waiting: sequences that wait for a place in it.
        steps: calls of the model's decode step.
        step_seconds: time spent in them, prefill included.
    """

    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    step_seconds: float = 0.0
