"""What a caller may ask: a plain prompt, or the messages of a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from vllm_mlx.batching.media import PromptMedia
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.video_params import VideoParams

Messages = Sequence[Mapping[str, Any]]


def plain_prompt(prompt: object) -> str:
    """`prompt`, if it is a plain one.

    Raises:
        InvalidRequestError: it is something else.
    """
    if not isinstance(prompt, str):
        given = type(prompt).__name__
        raise InvalidRequestError(f"prompt is a {given}: should be a string; chat() takes messages")
    return prompt


def chat_messages(messages: object) -> Messages:
    """`messages`, if they are some.

    Raises:
        InvalidRequestError: they are something else.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        given = type(messages).__name__
        raise InvalidRequestError(f"messages is a {given}: should be a list of messages")
    for at, message in enumerate(messages):
        if not isinstance(message, Mapping):
            given = type(message).__name__
            raise InvalidRequestError(f"messages[{at}] is a {given}: should be a dict")
    return messages


@dataclass(frozen=True, slots=True)
class MediaPrompt:
    """Messages with images and videos in them, and how videos are looked at.

    Attributes:
        messages: content is text, or a list of parts: `{"type": "text", "text": …}`,
            `{"type": "image", "image": source}` and `{"type": "video", "video": source}`.
    """

    messages: Messages
    video: VideoParams = field(default_factory=VideoParams.of)


Prompt: TypeAlias = str | Messages | MediaPrompt


class Prepared(NamedTuple):
    """A prompt as the model takes it."""

    tokens: list[int]
    media: PromptMedia | None = None
