"""`GenerationRequest`: one row of work, a prompt or a chat with its media and settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator

from vllm_mlx.content import MediaKind, Part, media_of, placed, with_sources
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.media.names import located
from vllm_mlx.messages import Message, Messages
from vllm_mlx.parameters import Parameters, describe, whole
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.sampling_types import as_tuple
from vllm_mlx.video_params import VideoParams

P = TypeVar("P", bound=Parameters)

MAX_SAMPLES = 1024
MAX_MEDIA = 64
"""Most images, and most videos, of one row."""


def _int_as_str(value: Any) -> Any:
    value = whole(value)
    return str(value) if type(value) is int else value


RequestId = Annotated[
    str, StringConstraints(min_length=1, max_length=512), BeforeValidator(_int_as_str)
]


MediaSources = Annotated[
    tuple[Annotated[str, StringConstraints(min_length=1)], ...],
    BeforeValidator(as_tuple),
    Field(max_length=MAX_MEDIA),
]


class GenerationRequest(SamplingParams, VideoParams):
    """A prompt or a chat, and the settings given with it.

    The fields of sampling and of videos' frames, their ranges and defaults are those of
    `SamplingParams` and `VideoParams`; `model_fields_set` tells which were given. An explicit
    null is the same as not given.
    """

    n: int = Field(1, ge=1, le=MAX_SAMPLES)
    """Texts to sample, each a row of the dataset with a seed of its own."""
    id: RequestId | None = None
    """Names the row in the dataset; an integer becomes a string."""
    prompt: Annotated[str, StringConstraints(min_length=1)] | None = None
    """Text to continue, as it is; beside images or videos, what the user says after them."""
    messages: Messages | None = None
    """A chat, put through the model's chat template; a message's `content` is text or parts.

    Text parts are joined; with images or videos among them the parts stay, in order.
    """
    images: MediaSources = ()
    """Paths, URLs or data URLs of images, seen before the `prompt`."""
    videos: MediaSources = ()
    """The same of videos, seen after the images."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, data: Any) -> Any:
        if isinstance(data, dict) and None in data.values():
            fields = cls.model_fields
            return {k: v for k, v in data.items() if v is not None or k not in fields}
        return data

    @model_validator(mode="before")
    @classmethod
    def _media_in_their_places(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("messages"), list):
            return data
        named: dict[MediaKind, str] = {"image": "images", "video": "videos"}
        media = {kind: data[name] for kind, name in named.items() if data.get(name)}
        if not media or not all(isinstance(each, list | tuple) for each in media.values()):
            return data
        messages = placed(data["messages"], media)
        if messages is data["messages"]:
            return data
        rest = {name: each for name, each in data.items() if name not in named.values()}
        return rest | {"messages": messages}

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        if self.messages is not None:
            if self.images or self.videos:
                raise ValueError(
                    "images and videos go with a prompt; beside messages, put them into a "
                    'message\'s content as parts: {"type": "image", "image": …}, or as places '
                    'that say {"type": "image"}'
                )
            for kind, count in Counter(part["type"] for part in self.media).items():
                if count > MAX_MEDIA:
                    raise ValueError(
                        f"messages hold {count} parts of type {kind!r}: at most {MAX_MEDIA}"
                    )
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
            raise InvalidRequestError(describe(error, cls)) from None

    def over(self, defaults: P) -> P:
        """Return `defaults`, overridden by those of their fields that this request gave."""
        given = self.model_fields_set & type(defaults).model_fields.keys()
        changes = {name: getattr(self, name) for name in given}
        return defaults.model_copy(update=changes) if changes else defaults

    @property
    def media(self) -> list[Part]:
        """The images and videos as content parts, in the order in which the model sees them."""
        if self.messages is not None:
            return media_of(message["content"] for message in self.messages)
        images = [{"type": "image", "image": image} for image in self.images]
        return images + [{"type": "video", "video": video} for video in self.videos]

    def chat(self) -> list[Message]:
        """Return the messages; a prompt as the user's, after its images and its videos."""
        if self.messages is not None:
            return self.messages
        assert self.prompt is not None
        if media := self.media:
            return [{"role": "user", "content": [*media, {"type": "text", "text": self.prompt}]}]
        return [{"role": "user", "content": self.prompt}]

    def located(self, folder: str | Path | None) -> GenerationRequest:
        """Return the same with paths of images and videos made absolute from `folder`, if any."""
        if folder is None or not self.media:
            return self
        locate = partial(located, folder=folder)
        changes: dict[str, Any] = {
            "images": tuple(map(locate, self.images)),
            "videos": tuple(map(locate, self.videos)),
        }
        if self.messages is not None:
            changes["messages"] = [
                {**each, "content": with_sources(each["content"], locate)} for each in self.messages
            ]
        return self.model_copy(update=changes)

    def samples(self, default: int) -> int:
        """Return `n`, or `default` where this request does not say it."""
        return self.n if "n" in self.model_fields_set else default
