"""`Templated`: rows whose requests a template makes, beside the columns that it makes them of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from jobs.column_types import TypeSpec
from jobs.requests import GenerationRequest
from jobs.sources.cells import converted
from jobs.sources.dialect import MEDIA_FIELDS, SHORTHANDS, Dialect, carried, written_out
from jobs.sources.formats import Format
from jobs.sources.plain import Plain, check_spelling
from jobs.sources.template import COLUMN_OPTIONS, Template
from vllm_mlx.content import Part
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.foreign import FOREIGN

Chat: TypeAlias = list[dict[str, Any]]

COLUMNS, REQUEST = "columns", "request"
_SOURCES = ("prompt", "messages")
_SOURCE_TYPES: tuple[TypeSpec, ...] = ("string", {"list": "string"})


class Templated(Dialect):
    """The dialect of a run with a template.

    The object of a row is `{"columns": …, "request": …}`: the input's columns as they are, and the
    texts that the producer made of them, as `prompt` or `messages`. A worker puts the two together.
    """

    id_key = "id"

    def __init__(self, template: Template) -> None:
        self._template = template
        self._taken = {
            field: column
            for field, column in (
                ("id", template.id_column),
                ("images", template.image_column),
                ("videos", template.video_column),
            )
            if column is not None
        }
        self._media = frozenset(self._taken[field] for field in self._taken if field != "id")
        self._replaced = {
            *(_SOURCES if template.makes_chat else ()),
            *(one for one, many in SHORTHANDS.items() if many in self._taken),
            *self._taken,
            *filter(template.mentions, FOREIGN),  # they act where the template puts them
        }
        is_prompt = template.prompt is not None and template.system is None
        self._asked = ("prompt" if is_prompt else "messages") if template.makes_chat else None

    def request(self, data: Mapping[str, Any]) -> GenerationRequest:
        """Return the request of a row; images and videos come before what the user says last."""
        fields = self.fields(data)
        if "messages" in _object(data, REQUEST):
            media = {name: fields.pop(name) for name in MEDIA_FIELDS if name in fields}
            if not self._template.has_media:
                fields["messages"] = _showing(_parts(media), fields["messages"])
        return Plain().request(fields)

    def columns(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the input's columns and what was asked: `prompt` or `messages`.

        A column that has its name is called `input_prompt` or `input_messages`.
        """
        own = _object(data, COLUMNS)
        if "id" not in self._taken:
            own = {name: value for name, value in own.items() if name != "id"}
        if self._asked is None:
            return carried(own, self._media)
        kept = {_free(name, own) if name == self._asked else name: own[name] for name in own}
        asked = {self._asked: _object(data, REQUEST).get(self._asked)}
        return carried(kept, self._media) | carried(asked)

    def restored(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Return the object of a row of which `columns` made these."""
        own, asked = dict(columns), {}
        if self._asked in own:
            asked = {self._asked: own.pop(self._asked)}
        return {COLUMNS: own, REQUEST: asked}

    def declared(self, types: Mapping[str, TypeSpec]) -> dict[str, TypeSpec]:
        """Leave out those of columns whose values or names are changed."""
        return {
            name: spec
            for name, spec in types.items()
            if name != self._asked and (name not in self._media or spec in _SOURCE_TYPES)
        }

    def fields(self, data: Mapping[str, Any]) -> dict[str, Any]:
        own, made = _object(data, COLUMNS), _object(data, REQUEST)
        fields = {name: value for name, value in own.items() if name not in self._replaced}
        taken = {field: own[column] for field, column in self._taken.items() if column in own}
        for field in taken.keys() - {"id"}:
            taken[field] = _as_list(converted(field, taken[field]))
        return fields | taken | made

    def own_id(self, data: Mapping[str, Any]) -> str | None:
        return super().own_id(self.fields(data))

    def check_columns(self, names: Sequence[str]) -> None:
        super().check_columns(names)
        for option in COLUMN_OPTIONS:
            column = getattr(self._template, option)
            if column is not None and column not in names:
                raise InvalidRequestError(
                    f"{option}={column!r}: there is no such column; there are "
                    f"{', '.join(names[:20])}"
                )
        if self._template.makes_text:
            check_spelling(names)
        else:
            Plain().check_columns(names)


def dialect_of(format: Format, template: Template | None) -> Dialect:
    """Return what the objects of a run's rows say."""
    return format.dialect if template is None else Templated(template)


def _object(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = data.get(key)
    return found if isinstance(found, dict) else {}


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """Return another name for a column; the same as in `dataset_names`."""
    name = f"input_{name}"
    return _free(name, taken) if name in taken else name


def _as_list(value: Any) -> Any:
    return value if value is None or isinstance(value, list) else [value]


def _parts(media: Mapping[str, Any]) -> list[Part]:
    """Return the images and videos of a request's fields as parts of content."""
    given = {name: value for name, value in media.items() if value is not None}
    return GenerationRequest.parse({"prompt": "?", **written_out(given)}).media if given else []


def _showing(media: list[Part], messages: Chat) -> Chat:
    """Return the chat with media before what the user says last."""
    if not media:
        return messages
    for at in range(len(messages) - 1, -1, -1):
        message = messages[at]
        if isinstance(message, dict) and message.get("role") == "user":
            said = message.get("content")
            parts = said if isinstance(said, list) else [{"type": "text", "text": said}]
            return [*messages[:at], {**message, "content": [*media, *parts]}, *messages[at + 1 :]]
    raise InvalidRequestError("the chat has no message of the user to show images or videos in")
