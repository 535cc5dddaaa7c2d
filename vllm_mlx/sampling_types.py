"""Types of settings that `SamplingParams` has: stop strings, token ids, biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints

from vllm_mlx.json_record import half_text
from vllm_mlx.parameters import plain_array, plain_scalar, whole


def as_tuple(strings: Any) -> Any:
    """Return one string or a collection of them as a tuple."""
    strings = plain_array(strings)
    if isinstance(strings, str):
        strings = [strings]
    if isinstance(strings, list):
        if refusal := half_text(strings, "stop"):
            raise ValueError(refusal)
        return tuple(strings)
    if strings is not None:
        raise ValueError("should be a string, or a list of strings")
    return None


def as_tokens(tokens: Any) -> Any:
    """Return one token id or a collection of them as a tuple."""
    tokens = plain_array(tokens)
    if isinstance(tokens, list):
        return tuple(map(whole, tokens))
    return None if tokens is None else (whole(tokens),)


def as_biases(biases: Any) -> Any:
    """Return what is added to logits by token id, which JSON has as a string."""
    if not isinstance(biases, Mapping):
        return biases
    given = {key: plain_scalar(value) for key, value in biases.items() if value is not None}
    return {int(key) if str(key).isdecimal() else key: value for key, value in given.items()}


def no_switch(count: Any) -> Any:
    """Return a count of likely tokens, which is a switch in OpenAI's chats."""
    if isinstance(count, bool):
        raise ValueError(
            "should be how many of the most likely tokens to report; 0 is each token's own alone"
        )
    return count


StopString = Annotated[str, StringConstraints(min_length=1)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Bias = Annotated[float, Field(ge=-100.0, le=100.0, allow_inf_nan=False)]
StopStrings = Annotated[tuple[StopString, ...] | None, BeforeValidator(as_tuple)]
TokenIds = Annotated[tuple[TokenId, ...] | None, BeforeValidator(as_tokens)]
LogprobCount = Annotated[int | None, BeforeValidator(no_switch)]
Biases = Annotated[dict[TokenId, Bias] | None, BeforeValidator(as_biases)]
