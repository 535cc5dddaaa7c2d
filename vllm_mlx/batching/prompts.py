"""What a caller may ask: a plain prompt, or the messages of a chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm_mlx.errors import InvalidRequestError

Messages = Sequence[Mapping[str, Any]]
Prompt = str | Messages


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
