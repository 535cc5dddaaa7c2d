"""`SamplingParams`: how tokens are chosen, and the only place that states the defaults."""

from __future__ import annotations

from typing import Annotated, Any, Self, TypedDict

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.seeds import sample_seed


def _as_tuple(stop: Any) -> Any:
    if isinstance(stop, str):
        return (stop,)
    return tuple(stop) if isinstance(stop, list) else stop


StopString = Annotated[str, StringConstraints(min_length=1)]


class Parameters(BaseModel):
    """Settings of one request: frozen, validated, with every default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Build from keyword arguments.

        Raises:
            InvalidRequestError: naming each field, what was given and what is allowed.
        """
        try:
            return cls(**options)
        except ValidationError as error:
            raise InvalidRequestError(describe(error, tuple(cls.model_fields))) from None


class SamplingParams(Parameters):
    """Sampling settings of one request; frozen, validated, with every default.

    Attributes:
        max_tokens: most tokens to generate, the end token included (≥ 1).
        temperature: 0 is greedy; higher is more random (0 to 2).
        top_p: sample from the smallest set of tokens with this much probability ((0, 1]).
        top_k: sample from the `top_k` most likely tokens; 0 is off.
        min_p: drop tokens less likely than `min_p` times the most likely one (0 to 1); 0 is off.
        repetition_penalty: divide the logits of recent tokens by this ((0, 2]); 1 is off.
        stop: strings that end the text; they are trimmed from it.
        seed: makes sampling repeatable, whatever else is in the batch; None draws one. The promise
            ends where floating point does: at another width of the batch or in another type sums
            are rounded differently (some 1e-6 in float32, 1e-2 in bfloat16), and a token that is
            that close to another may be the other.
        logprobs: report each token's log-probability and those of this many most likely tokens at
            its place (0 to 20); None reports none.
        stop_on_repetition: end a text whose tail repeats itself, with
            `finish_reason="repetition"`.
    """

    max_tokens: int = Field(256, ge=1, le=2**31 - 1)
    temperature: float = Field(0.7, ge=0.0, le=2.0, allow_inf_nan=False)
    top_p: float = Field(0.9, gt=0.0, le=1.0, allow_inf_nan=False)
    top_k: int = Field(0, ge=0, le=2**31 - 1)
    min_p: float = Field(0.0, ge=0.0, le=1.0, allow_inf_nan=False)
    repetition_penalty: float = Field(1.0, gt=0.0, le=2.0, allow_inf_nan=False)
    stop: Annotated[tuple[StopString, ...] | None, BeforeValidator(_as_tuple)] = None
    seed: int | None = Field(None, ge=0, lt=2**63)
    logprobs: int | None = Field(None, ge=0, le=20)
    stop_on_repetition: bool = False

    def for_samples(self, n: int) -> list[SamplingParams]:
        """These settings for each of `n` samples of one prompt, with seeds that differ.

        Raises:
            InvalidRequestError: `n` is no positive integer, or all samples would be the same.
        """
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


class SamplingOptions(TypedDict, total=False):
    """The keyword arguments of every `generate` and `chat`: see `SamplingParams`."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    stop: str | list[str] | tuple[str, ...] | None
    seed: int | None
    logprobs: int | None
    stop_on_repetition: bool


def describe(error: ValidationError, allowed: tuple[str, ...]) -> str:
    """A validation error in one line: field, what was given, what is allowed."""
    return "; ".join(_describe_one(item, allowed) for item in error.errors(include_url=False))


def _describe_one(item: Any, allowed: tuple[str, ...]) -> str:
    field = ".".join(str(part) for part in item["loc"]) or "request"
    if item["type"] == "extra_forbidden":
        return f"{field}: unknown field; allowed are {', '.join(allowed)}"
    given = repr(item["input"])
    given = given if len(given) <= 60 else given[:57] + "..."
    if item["type"] == "missing":
        return f"{field}: missing"
    message = item["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    return f"{field}={given}: {message}"
