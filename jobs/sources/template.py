"""`Template`: how a run makes requests of its rows' columns."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import from_json

from jobs.requests import GenerationRequest
from vllm_mlx.content import MEDIA_PARTS
from vllm_mlx.errors import InvalidRequestError, shown
from vllm_mlx.parameters import Parameters

COLUMN_OPTIONS = ("id_column", "image_column", "video_column")
_TEXTS = ("prompt", "system", "messages")


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("should be a text of more than white space")
    return text


_Name = Annotated[str, Field(min_length=1)]
_Text = Annotated[str, Field(min_length=1), AfterValidator(_not_blank)]


class Template(Parameters):
    """What a run makes of each row's columns; what it leaves out is the row's own.

    Texts are Jinja. `of` reads those that begin with @ from the file named behind it.
    """

    prompt: _Text | None = None
    """What the user says: Jinja over the columns, `{{ title }}`, or over `path`, `name` and
    `folder` of a media file; @FILE reads it from there."""
    system: _Text | None = None
    """The system message, the same way, for rows whose own messages have none."""
    messages: Annotated[
        Annotated[list[dict[str, Any]], Field(min_length=1)] | None,
        WithJsonSchema({"type": "string"}),
    ] = None
    """A chat in place of one prompt, as JSON or @FILE: the contents of its messages are Jinja."""
    id_column: _Name | None = None
    """The column that names the rows, in place of `id`."""
    image_column: _Name | None = None
    """The column of each row's image, or list of them, in place of `image` and `images`."""
    video_column: _Name | None = None
    """The same of videos."""

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Build from keyword arguments, as of all settings; `messages` may be JSON text, too.

        Raises:
            InvalidRequestError: also where a file can't be read, or two of them exclude each other.
        """
        given = {name: value for name, value in options.items() if value is not None}
        for name in _TEXTS:
            if isinstance(given.get(name), str):
                given[name] = _read(given[name], name)
        if isinstance(given.get("messages"), str):
            given["messages"] = _parsed(given["messages"])
        template = super().of(**given)
        template.check()
        return template

    def check(self) -> None:
        """Raise InvalidRequestError if fields exclude each other, or `messages` are no chat."""
        if self.messages is None:
            return
        if self.prompt is not None:
            raise InvalidRequestError("give one of prompt and messages")
        GenerationRequest.parse({"messages": self.messages})
        if self.system is not None and self.messages[0].get("role") == "system":
            raise InvalidRequestError("system: messages has a system message already; give one")
        for name in ("image_column", "video_column"):
            if self.has_media and getattr(self, name) is not None:
                raise InvalidRequestError(
                    f"{name}: messages has images or videos of its own, so these would be left "
                    "out; name the column in its parts"
                )

    def check_chat(self, chat: bool | None, *, sees: bool) -> bool:
        """Return whether prompts are sent as chats, where `chat` is what was asked for.

        Args:
            sees: all rows have images or videos.

        Raises:
            InvalidRequestError: none are to be sent, and all would be.
        """
        if chat is not False:
            return chat or self.makes_chat
        for name in ("system", "messages"):
            if getattr(self, name) is not None:
                raise InvalidRequestError(f"chat=False: {name} makes chats; leave one of them out")
        if sees:
            raise InvalidRequestError("chat=False: images and videos are shown in a chat")
        return False

    def mentions(self, name: str) -> bool:
        """Whether a text of it has this word, and so may read the column of that name."""
        texts = [self.prompt or "", self.system or "", json.dumps(self.messages or "")]
        return re.search(rf"\b{re.escape(name)}\b", " ".join(texts)) is not None

    @property
    def makes_text(self) -> bool:
        """Whether it says what is asked, so that rows need no prompt of their own."""
        return self.prompt is not None or self.messages is not None

    @property
    def makes_chat(self) -> bool:
        return self.makes_text or self.system is not None

    @property
    def has_media(self) -> bool:
        """Whether its own messages hold images or videos."""
        contents = [message.get("content") for message in self.messages or []]
        parts = [part for each in contents if isinstance(each, list) for part in each]
        return any(part.get("type") in MEDIA_PARTS for part in parts)


def template_of(**options: Any) -> Template | None:
    """Return the template of the options that are given, if any is.

    Raises:
        InvalidRequestError: as `Template.of`.
    """
    return Template.of(**options) if any(each is not None for each in options.values()) else None


def _read(text: str, name: str) -> str:
    """Return the text, or that of the file it names, without the line end at its end."""
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).expanduser().read_text("utf-8-sig").removesuffix("\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequestError(
            f"{name}={shown(text)}: the file can't be read: {reason}; for a text that begins with "
            """@ write {{ "@" }}"""
        ) from None


def _parsed(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError as error:
        raise InvalidRequestError(
            f"messages={shown(text)}: not JSON: {error}; should be a list of messages, or @FILE"
        ) from None
