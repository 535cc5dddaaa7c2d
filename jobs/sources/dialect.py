"""`Dialect`: what the object of a row says, whichever way it is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from jobs.column_types import TypeSpec
from jobs.column_values import BASE64, is_bytes
from jobs.requests import GenerationRequest, RequestId
from vllm_mlx.content import MEDIA_PARTS
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.media.names import abridged

SHORTHANDS: Mapping[str, str] = {"image": "images", "video": "videos"}
"""How a row says that it has just one image or video."""

FIELDS = frozenset({*GenerationRequest.model_fields, *SHORTHANDS, "response_format"})
"""What a row may say of its request."""

NUL = "\0"
MEDIA_FIELDS = frozenset({*SHORTHANDS, *SHORTHANDS.values()})
_MEDIA_KEYS = frozenset({*SHORTHANDS.values(), *MEDIA_PARTS, "url"})
_ID: TypeAdapter[str] = TypeAdapter(RequestId, config=ConfigDict(strict=True))


class Dialect(ABC):
    """One way to write rows.

    Attributes:
        id_key: what a row has its id under.
    """

    id_key: str

    @abstractmethod
    def request(self, data: Mapping[str, Any]) -> GenerationRequest:
        """Return the request that a row's object stands for.

        Raises:
            InvalidRequestError: naming field, what was given and what is allowed.
        """

    @abstractmethod
    def columns(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row's own columns, which go to the dataset beside the output; never raises.

        They are as the row has them, but that long images and videos given inline are left out.
        """

    def check_columns(self, names: Sequence[str]) -> None:
        """Raise InvalidRequestError for what would make every row of a table a bad one."""
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InvalidRequestError(f"more than one column {twice[0]!r}")

    def declared(self, types: Mapping[str, TypeSpec]) -> dict[str, TypeSpec]:
        """Return which of the types that a file says of its columns hold for `columns`."""
        return dict(types)

    def own_id(self, data: Mapping[str, Any]) -> str | None:
        """Return the id of a row, good or bad, if it has a usable one."""
        try:
            return _ID.validate_python(data.get(self.id_key))
        except ValidationError:
            return None

    def samples(self, data: Mapping[str, Any], default: int) -> int:
        """Return how many samples a good row asks for."""
        given = self.fields(data).get("n")
        return default if given is None else int(given)

    def fields(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what of a row holds its request's fields."""
        return data


def written_out(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's fields, with the list that a shorthand stands for.

    Raises:
        InvalidRequestError: both are given, or the shorthand is no string.
    """
    full = {key: _media(value) if key in MEDIA_FIELDS else value for key, value in fields.items()}
    for one, many in SHORTHANDS.items():
        value = full.pop(one, None)
        if value is None:
            continue
        if full.get(many) is not None:
            raise InvalidRequestError(f"give one of {one} and {many}")
        if not isinstance(value, str):
            raise InvalidRequestError(
                f"{one} is a {type(value).__name__}: should be a path, a URL or a data URL as a "
                "string; rename it if it is a column of yours"
            )
        full[many] = [value]
    return full


def carried(columns: Mapping[str, Any], media: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return columns as they go into the dataset: the same, but for long inline media.

    A name with a NUL, which makes a bad row, can't be one of a column.

    A clip as a data URL would stand in the dataset a second time, and no reader could open it
    there better than from the input: of it remain its type and its size.

    Args:
        media: columns of images and videos that have other names than usual.
    """
    return {
        name: _carried(name, value, media) for name, value in columns.items() if NUL not in name
    }


def _carried(name: str, value: Any, media: frozenset[str]) -> Any:
    if name in MEDIA_FIELDS or name in media:
        return _abridged("images", _media(value, by_path=True))
    return _abridged(name, value) if name == "messages" else value


def _media(value: Any, *, by_path: bool = False) -> Any:
    """Return what a column of media holds, with strings for bytes and for Hugging Face's images.

    Those are `{"bytes": …, "path": …}`, of which the path counts where there are no bytes.

    Args:
        by_path: it counts wherever there is one.
    """
    if isinstance(value, list):
        return [_media(each, by_path=by_path) for each in value]
    if is_bytes(value):
        return f"data:;base64,{value[BASE64]}"
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        data, path = value["bytes"], value["path"]
        if data is None or (by_path and path):
            return path
        # Bytes that are UTF-8 are a string.
        return _media({BASE64: b64encode(data.encode()).decode()} if type(data) is str else data)
    return value


def _abridged(key: str, value: Any) -> Any:
    """Return what stands under `key`, with the media in it abridged, at any depth."""
    match value:
        case str() if key in _MEDIA_KEYS:
            return abridged(value)
        case list():
            return [_abridged(key, each) for each in value]
        case dict():
            return {name: _abridged(name, each) for name, each in value.items()}
        case _:
            return value
