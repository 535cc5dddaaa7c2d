"""What an engine returns: `GenerationOutput`, the one output type from model to Parquet row, and
`EngineStats`, its counts."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from vllm_mlx.content import MediaKind

FinishReason = Literal["stop", "length", "repetition", "error"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token at one place of a text, and how likely the model found it.

    Attributes:
        token_id: its number in the vocabulary.
        token: its text; bytes that are no whole character become U+FFFD.
        logprob: natural logarithm of its probability, before temperature and filters.
        top: the most likely tokens at this place, most likely first (their own `top` is empty).
    """

    token_id: int
    token: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ChoiceScore:
    """How likely a label follows a prompt.

    Attributes:
        logprob: natural logarithm of its probability: the sum over its tokens.
        tokens: how many these are.
    """

    choice: str
    logprob: float
    tokens: int


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What the model saw of one image or video.

    Attributes:
        hash: of the pixels that it saw, hexadecimal: the same for the same content, wherever it
            came from.
        width, height: in pixels, of the source as it is shown (rotation applied).
        duration_s: of the video in seconds; None for an image.
        timestamps: of the video's frames that were used, in seconds; none for an image.
        truncated: the file ends before its own index does, so its end is missing.
    """

    kind: MediaKind
    hash: str
    width: int
    height: int
    duration_s: float | None = None
    timestamps: tuple[float, ...] = ()
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class CalledFunction:
    """What is called, with its arguments as JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for, in OpenAI's form: an assistant's message may have it.

    Attributes:
        id: the result of the call names it.
    """

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


@dataclass(frozen=True, slots=True)
class GenerationOutput:
    """What a model made of one prompt, or, in a stream, the next piece of it.

    Attributes:
        text: the generated text, without the end token and the stop string. In a stream: what is
            new since the chunk before; the chunks of a stream joined are the whole text.
        prompt_tokens: tokens of the prompt as the model read it, template included.
        completion_tokens: tokens the model produced so far, the end token included.
        finish_reason: `"stop"` (end token or stop string), `"length"` (`max_tokens` or the end of
            the model's context), `"repetition"` (see `SamplingParams.stop_on_repetition`),
            `"error"` (see `error`), or None on all but a stream's last chunk.
        model: the model's name as it was asked for.
        seed: the seed this text was sampled with; None for greedy decoding.
        cached_tokens: prompt tokens that were not computed again because another prompt
            shared them.
        latency_s: seconds from submission to the last token, waiting included.
        logprobs: one entry a token, the end token included, if they were asked for. In a stream:
            those of the tokens so far that were not in an earlier chunk.
        prompt_logprobs: one entry a token of the prompt, None for the first, if they were asked
            for. In a stream they stand in the last chunk.
        scores: all labels, the best first, if they were to be ranked (see
            `SamplingParams.score_choices`).
        media: the images and then the videos of the prompt, as they were seen; None without any.
        error_type: class name of the error, for `finish_reason == "error"`.
        error: its message.
        reasoning: what a model that thinks thought before, without its markers; None where there is
            no thought. In a stream: what is new of it. A thought that was cut off is no text.
        reasoning_tokens: those of `completion_tokens` that the thoughts took so far, without the
            markers, but with line breaks beside them, which are no part of `reasoning`.
        complete: whether a constrained answer ended where `structured_outputs` lets it; False for
            one that was cut. None without a constraint, and on all but a stream's last chunk.
        tool_calls: calls of tools, which are no part of the text; None where there are none. In a
            stream they come with the last chunk.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: FinishReason | None = None
    model: str = ""
    seed: int | None = None
    cached_tokens: int = 0
    latency_s: float = 0.0
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    scores: tuple[ChoiceScore, ...] | None = None
    media: tuple[MediaInfo, ...] | None = None
    error_type: str | None = None
    error: str | None = None
    reasoning: str | None = None
    reasoning_tokens: int = 0
    complete: bool | None = None
    tool_calls: tuple[ToolCall, ...] | None = None

    @classmethod
    def from_error(cls, error: BaseException, model: str = "") -> GenerationOutput:
        """Return the output of a request that failed."""
        return cls(
            text="",
            finish_reason="error",
            model=model,
            error_type=type(error).__name__,
            error=str(error),
        )


HELD_NOW = frozenset({"running", "waiting", "max_num_seqs", "slots", "kv_cache_bytes", "way"})
"""What of `EngineStats` is no count."""


class Speeds:
    """Speeds of what is counted in tokens and seconds, loading and waiting left out."""

    __slots__ = ()
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    prefill_seconds: float
    decode_seconds: float

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens computed per second of prefill; 0 before the first."""
        computed = self.prompt_tokens - self.cached_tokens
        return computed / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens generated per second of decoding; 0 before the first."""
        return self.completion_tokens / self.decode_seconds if self.decode_seconds else 0.0


@dataclass(frozen=True, slots=True)
class EngineStats(Speeds):
    """Counts since an engine started, and what it holds now.

    What counts is work: a sequence that is tried again after a step failed is counted again, and
    the time of the part at hand grows while it goes on. Prompt tokens count as they are computed.

    Attributes:
        running: sequences in the batch, those whose prompt is being computed among them.
        waiting: sequences that wait for a place in it.
        max_num_seqs: most sequences in the batch, now.
        slots: how wide decode steps are now: their sequences, and free places beside these.
        kv_cache_bytes: memory that the key-value caches of the batch take now.
        way: how the model runs, and why so: "in slots, 28 x keys and values".
        prompt_tokens: tokens of prompts that are behind the engine.
        cached_tokens: those of them that were not computed, because another prompt shared them.
        padding_tokens: computed in prefill beside the prompts', to make rows equally long.
        completion_tokens: tokens generated.
        steps: decode steps.
        schedule_seconds: time spent choosing what runs.
        prefill_seconds: time spent in prefill (on prompts), joining the batch included.
        decode_seconds: time spent in decode steps, sampling included.
        deliver_seconds: time spent on text, stop strings and callers.
    """

    running: int = 0
    waiting: int = 0
    max_num_seqs: int = 0
    slots: int = 0
    kv_cache_bytes: int = 0
    way: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    padding_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    schedule_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    deliver_seconds: float = 0.0

    def after(self, before: EngineStats) -> EngineStats:
        """Return these counts, going on from the last ones of an engine that this one replaces."""
        counts = [each.name for each in fields(self) if each.name not in HELD_NOW]
        total = {name: getattr(before, name) + getattr(self, name) for name in counts}
        return replace(self, **total)
