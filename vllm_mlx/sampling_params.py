"""`SamplingParams`: how tokens are chosen, and the only place that states the defaults."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, TypedDict

from pydantic import BeforeValidator, Field, StringConstraints

from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.parameters import Parameters, plain_scalar
from vllm_mlx.seeds import sample_seed


def as_tuple(strings: Any) -> Any:
    """Return one string or a collection of them as a tuple."""
    if isinstance(strings, str):
        return (strings,)
    if isinstance(strings, list | tuple | set | frozenset):
        return tuple(strings)
    if strings is not None:
        raise ValueError("should be a string, or a list of strings")
    return None


StopString = Annotated[str, StringConstraints(min_length=1)]


class SamplingParams(Parameters):
    """Sampling settings of one request; frozen, validated, with every default."""

    max_tokens: int = Field(256, ge=1, le=2**31 - 1)
    """Most tokens to generate, the end token included."""
    temperature: float = Field(0.7, ge=0.0, le=2.0, allow_inf_nan=False)
    """How random the choice of a token is; 0 is greedy: always the most likely one."""
    top_p: float = Field(0.9, gt=0.0, le=1.0, allow_inf_nan=False)
    """Sample from the smallest set of tokens with this much probability; 1 is off."""
    top_k: int = Field(0, ge=0, le=2**31 - 1)
    """Sample from this many most likely tokens; 0 is off."""
    min_p: float = Field(0.0, ge=0.0, le=1.0, allow_inf_nan=False)
    """Drop tokens less likely than this times the most likely one; 0 is off."""
    repetition_penalty: float = Field(1.0, gt=0.0, le=2.0, allow_inf_nan=False)
    """Divide the logits of recent tokens by this; 1 is off."""
    stop: Annotated[tuple[StopString, ...] | None, BeforeValidator(as_tuple)] = None
    """Strings (or one) that end the text; they are trimmed from it."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    """Makes sampling repeatable, whatever else is in the batch; drawn and recorded if not given.

    The promise ends where floating point does: at another width of the batch or in another type
    sums are rounded differently (some 1e-6 in float32, 1e-2 in bfloat16), and a token that is that
    close to another may be the other.
    """
    logprobs: int | None = Field(None, ge=0, le=20)
    """Report each token's log-probability, and those of this many most likely tokens there."""
    stop_on_repetition: bool = False
    """End a text whose tail repeats itself, with the `finish_reason` `repetition`."""

    def for_samples(self, n: int) -> list[SamplingParams]:
        """Return these settings for each of `n` samples of one prompt, with seeds that differ.

        Raises:
            InvalidRequestError: `n` is no positive integer, or all samples would be the same.
        """
        n = plain_scalar(n)
        if type(n) is not int or n < 1:
            raise InvalidRequestError(f"n={n!r}: should be at least 1")
        if n > 1 and self.greedy:
            raise InvalidRequestError(f"n={n}: at temperature 0 all samples are the same")
        if self.seed is None:
            return [self] * n
        seeds = (sample_seed(self.seed, index) for index in range(n))
        return [self.model_copy(update={"seed": seed}) for seed in seeds]

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken: at 0, or so near that 1/T overflows."""
        return self.temperature < 1e-6


class MoreOptions(TypedDict, total=False):
    """`SamplingOptions` of calls that have `max_tokens` as an argument of its own."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    stop: str | Collection[str] | None
    seed: int | None
    logprobs: int | None
    stop_on_repetition: bool | None


class SamplingOptions(MoreOptions, total=False):
    """The keyword arguments of every `generate` and `chat`: see `SamplingParams`."""

    max_tokens: int | None
