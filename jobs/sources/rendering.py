"""Jinja in a sandbox: texts over the columns of a row. Only producers render; workers never do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeAlias

from jinja2 import (
    StrictUndefined,
    TemplateAssertionError,
    TemplateError,
    TemplateRuntimeError,
    TemplateSyntaxError,
    UndefinedError,
)
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jobs.column_values import is_bytes
from vllm_mlx.errors import InvalidRequestError, shown

Render: TypeAlias = Callable[[Mapping[str, Any]], str]
"""Makes the text of a row's columns."""

MOST_CHARACTERS = 10_000_000
"""Of the text that a template makes of a row."""
ROW = "row"
"""The variable that has all columns, for names that are no names in Jinja: `row["Review text"]`."""


_QUOTED = re.compile("'(.*)'")
_OF_A_DICT = re.compile(r"^'dict object' has no attribute ('.*')$")


class _NullPrintedError(Exception):
    """A template prints a value that is null."""


def compiled(text: str, where: str) -> Render:
    """Return what renders `text`, which the messages of errors call `where`.

    Raises:
        InvalidRequestError: it is no Jinja. What the result raises for a row is one, too.
    """
    try:
        template = _environment().from_string(text)
    except TemplateSyntaxError as error:
        told = f"{where}, line {error.lineno}: {str(error.message).rstrip('.')}{_advice(error)}"
        raise InvalidRequestError(told) from None

    def render(columns: Mapping[str, Any]) -> str:
        try:
            return _joined(template.generate({ROW: columns, **columns}))
        except UndefinedError as error:
            told = _OF_A_DICT.sub(r"\1 is undefined", str(error.message))
            raise InvalidRequestError(f"{where}: {told}; {_has(columns)}") from None
        except _NullPrintedError:
            nulls = [name for name, value in columns.items() if value is None]
            nulls = [name for name in nulls if name in text] or nulls
            named = f"; null are {', '.join(nulls)}" if nulls else ""
            raise InvalidRequestError(
                f"{where}: a value is null in this row{named}; write {{{{ "
                f'{_variable(nulls[0]) if nulls else "x"} or "" }}}} for no text in its place'
            ) from None
        except Exception as error:  # whatever an expression of the user's raises
            kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
            told = f"{kind}{error}".rstrip(".")
            raise InvalidRequestError(f"{where}: {told}; {_has(columns)}") from None

    return render


def _joined(pieces: Iterable[str]) -> str:
    made, length = [], 0
    for piece in pieces:
        length += len(piece)
        if length > MOST_CHARACTERS:
            raise TemplateRuntimeError(f"it makes more than {MOST_CHARACTERS:,} characters")
        made.append(piece)
    return "".join(made)


def _advice(error: TemplateSyntaxError) -> str:
    """Return what to do about a text that is no Jinja."""
    if not isinstance(error, TemplateAssertionError):
        return '; a column whose name is no word is {{ row["Review text"] }}'
    unknown = _QUOTED.search(str(error.message))
    close = get_close_matches(unknown[1], _names(), 1) if unknown else []
    return f"; did you mean {close[0]}?" if close else "; there are only Jinja's own"


def _names() -> list[str]:
    environment = _environment()
    return [name for name in (*environment.filters, *environment.tests) if name.isidentifier()]


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        finalize=_printed,
        # As chat templates are read; but a line end at a text's end is the user's.
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["tojson"] = _to_json  # Jinja's own escapes HTML
    return environment


def _printed(value: Any) -> Any:
    """Return a value as it is printed: lists and objects as JSON; null would read "None"."""
    if value is None:
        raise _NullPrintedError
    if is_bytes(value):
        raise TemplateRuntimeError("a value has bytes that are no text in UTF-8: leave it out")
    if isinstance(value, list | tuple | dict):
        return _to_json(value)
    if callable(value) and not isinstance(value, StrictUndefined):
        raise InvalidRequestError(f"{shown(value)} is a function: call it, or write x['name']")
    return value


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _variable(column: str) -> str:
    """Return how a template names a column."""
    return column if column.isidentifier() else f"{ROW}[{_to_json(column)}]"


def _has(columns: Mapping[str, Any]) -> str:
    return f"the row has {', '.join(map(str, columns)) or 'no columns'}"
