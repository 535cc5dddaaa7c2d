"""`Parameters`: the base of all settings, and `Setting`, one of them in words.

A field's docstring is its description wherever it is shown: `help()`, the command line, the docs.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from difflib import get_close_matches
from textwrap import indent
from typing import Any, ClassVar, NamedTuple, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from vllm_mlx.errors import InvalidRequestError, path_of, shown
from vllm_mlx.foreign import refusal_in_a_call
from vllm_mlx.nested_fields import fields_at

_NO_LIMIT = 2**31 - 1  # from here on a maximum is that of the number's type


class Parameters(BaseModel):
    """Settings that are frozen, validated, and complete: every field has a default.

    A float that is whole is as good as the integer where a field is one.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )

    _integers: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        integers = (name for name, kind in kinds.items() if int in (kind, *get_args(kind)))
        cls._integers = frozenset(integers)
        described = [f"{name}: {field.description}" for name, field in cls.model_fields.items()]
        fields = indent("\n".join(text.replace("\n", "\n    ") for text in described), " " * 4)
        cls.__doc__ = f"{inspect.getdoc(cls)}\n\nAttributes:\n{fields}\n"

    @model_validator(mode="before")
    @classmethod
    def _whole_floats_are_integers(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return data | {name: whole(data[name]) for name in cls._integers & data.keys()}

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Build from keyword arguments; None takes the default, and what is numpy's will do.

        Raises:
            InvalidRequestError: naming each field, what was given and what is allowed.
        """
        given = {name: plain_scalar(each) for name, each in options.items() if each is not None}
        try:
            return cls(**given)
        except ValidationError as error:
            raise InvalidRequestError(describe(error, cls)) from None


def plain_scalar(value: Any) -> Any:
    """Return a scalar of numpy's (or MLX's) as one of Python's, anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value


def plain_array(value: Any) -> Any:
    """Return an array of numpy's (or MLX's) as a list, its scalars too; anything else as it is."""
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_scalar(each) for each in value]
    return value.tolist() if getattr(value, "shape", None) else plain_scalar(value)


def whole(value: Any) -> Any:
    """Return a float that is whole as the integer, as tables and JavaScript write those."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Setting(NamedTuple):
    """A field of `Parameters`, as the command line and the docs show it.

    Attributes:
        type: JSON's name of the type; `size` of a number of bytes that may have a unit.
        range: the allowed values in words; empty where all of the type are.
        default: as JSON; empty where not given means off or chosen later.
        help: the first paragraph of the description.
        items: the type of what an array holds.
    """

    name: str
    type: str
    range: str
    default: str
    help: str
    items: str = ""


def settings_of(parameters: type[Parameters]) -> dict[str, Setting]:
    """Return the settings by name, in the order in which they are declared."""
    properties = parameters.model_json_schema()["properties"]
    return {name: _setting(name, schema) for name, schema in properties.items()}


def _setting(name: str, schema: Mapping[str, Any]) -> Setting:
    flat = {**schema.get("anyOf", [{}])[0], **schema}
    default = flat.get("default")
    text = "" if default in (None, []) else json.dumps(default)
    summary = " ".join(flat.get("description", "").partition("\n\n")[0].split())
    items = flat.get("items", {}).get("type", "")
    return Setting(name, flat["type"], _range(flat), text, summary, items)


def _range(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(schema["enum"])
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    most = schema.get("maximum", _NO_LIMIT)
    if "maxLength" in schema:
        return f"up to {schema['maxLength']}"
    if above is not None:
        return f"above {above:g}, up to {most:g}"
    if least is not None:
        return f"{least:g} to {most:g}" if most < _NO_LIMIT else f"at least {least:g}"
    return ""


def describe(error: ValidationError, owner: type) -> str:
    """Return a validation error in one line: field, what was given, what is allowed.

    Args:
        owner: the class of what was validated.
    """
    return "; ".join(_describe_one(item, owner) for item in error.errors(include_url=False))


def _describe_one(item: Any, owner: type) -> str:
    field = path_of(item["loc"]) or "request"
    if item["type"] == "extra_forbidden":
        *within, name = item["loc"]
        if not within and (refusal := refusal_in_a_call(field, item["input"])):
            return f"{field}: {refusal}"
        allowed = fields_at(owner, within)
        if close := get_close_matches(str(name), allowed, 1, 0.8):
            return f"{field}: unknown field, did you mean {close[0]}?"
        return f"{field}: unknown field; allowed are {', '.join(allowed)}"
    if item["type"] == "missing":
        return f"{field}: missing"
    message: str = item["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    if item["type"] == "value_error" and not item["loc"]:  # our own words, which name the field
        return message
    return f"{field}={shown(item['input'])}: {message}"
