"""`GenerationRequest`: one row of work, a prompt or a chat with its own sampling settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, Self

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator

# Until Python 3.12 pydantic reads the TypedDict of typing_extensions only.
from typing_extensions import TypedDict

from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.sampling_params import SamplingParams, describe

SAMPLING_FIELDS = frozenset(SamplingParams.model_fields)
MAX_SAMPLES = 1024


def _int_as_str(value: Any) -> Any:
    return str(value) if type(value) is int else value


RequestId = Annotated[
    str, StringConstraints(min_length=1, max_length=512), BeforeValidator(_int_as_str)
]


def _flatten(content: Any) -> Any:
    """OpenAI's list of text parts as the one string they stand for."""
    if not isinstance(content, list):
        return content
    return "".join(_text_of(part) for part in content)


def _text_of(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise ValueError(
            f"a content part of type {kind!r}: only 'text' parts are supported, "
            "images and video are not supported yet"
        )
    if not isinstance(part.get("text"), str):
        raise ValueError("a text part should hold its text as a string under 'text'")
    return str(part["text"])


class Message(TypedDict):
    """One message of a chat."""

    role: Literal["system", "user", "assistant", "tool", "developer"]
    content: Annotated[str, BeforeValidator(_flatten)]
    name: NotRequired[str]


_MESSAGE_KEYS = Message.__required_keys__ | Message.__optional_keys__


def _without_nulls(message: Any) -> Any:
    """Drop what is explicitly null; a key that would be ignored is an error instead."""
    if not isinstance(message, dict):
        return message
    given = {key: value for key, value in message.items() if value is not None}
    if unknown := given.keys() - _MESSAGE_KEYS:
        names = ", ".join(sorted(map(repr, unknown)))
        raise ValueError(f"unknown key {names}; allowed are role, content and name")
    return given


class GenerationRequest(SamplingParams):
    """A prompt or a chat, and the sampling settings given with it.

    The sampling fields, their ranges and defaults are those of `SamplingParams`;
    `model_fields_set` tells which were given. An explicit null is the same as not given.

    Attributes:
        n: how many texts to sample, each a row of the output (1 to 1024).
        id: names the request in the output (1 to 512 characters); an integer becomes a string.
        prompt: the text to continue, sent to the model as it is.
        messages: a chat, put through the model's chat template. Content given as a list of text
            parts is joined.
        metadata: free-form; it does not reach the model.
    """

    n: int = Field(1, ge=1, le=MAX_SAMPLES)
    id: RequestId | None = None
    prompt: Annotated[str, StringConstraints(min_length=1)] | None = None
    messages: (
        Annotated[list[Annotated[Message, BeforeValidator(_without_nulls)]], Field(min_length=1)]
        | None
    ) = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, data: Any) -> Any:
        if isinstance(data, dict) and None in data.values():
            fields = cls.model_fields
            return {k: v for k, v in data.items() if v is not None or k not in fields}
        return data

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        return self

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> GenerationRequest:
        """Build from a row's fields.

        Raises:
            InvalidRequestError: naming each field, what was given and what is allowed.
        """
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise InvalidRequestError(describe(error, tuple(cls.model_fields))) from None

    def sampling_params(self, defaults: SamplingParams) -> SamplingParams:
        """`defaults`, overridden by exactly the sampling fields this request gave."""
        given = self.model_fields_set & SAMPLING_FIELDS
        if not given:
            return defaults
        return defaults.model_copy(update={name: getattr(self, name) for name in given})

    def samples(self, default: int) -> int:
        """`n`, or `default` where this request does not say it."""
        return self.n if "n" in self.model_fields_set else default
