"""`RowMaker`: the texts that a template makes of each row, on the producer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from jobs.requests import GenerationRequest
from jobs.sources.plain import source_of
from jobs.sources.rendering import Render, compiled
from jobs.sources.rows import RawRow
from jobs.sources.template import COLUMN_OPTIONS, Template
from jobs.sources.templated import COLUMNS, REQUEST, Chat
from vllm_mlx.errors import InvalidRequestError

Columns: TypeAlias = Mapping[str, Any]

_Make: TypeAlias = Callable[[Columns, Columns], dict[str, Any]]
"""Makes what is asked of the columns and the variables."""


class RowMaker:
    """Makes the objects that `Templated` reads.

    Raises:
        InvalidRequestError: a text is no Jinja.
    """

    def __init__(self, template: Template) -> None:
        options = {name: getattr(template, name) for name in COLUMN_OPTIONS}
        self._needed = {name: column for name, column in options.items() if column is not None}
        self._ask = _asking(template)

    def __call__(self, raw: RawRow, variables: Columns | None = None) -> RawRow:
        """Return the row as the template makes it, or with what is wrong.

        Args:
            variables: what its texts are rendered over, if not over the columns.
        """
        if raw.error is not None:
            return raw
        if variables is None:
            variables = {name: _gap_is_null(value) for name, value in raw.data.items()}
        data: dict[str, Any] = {COLUMNS: raw.data, REQUEST: {}}
        try:
            self._check(raw.data)
            data[REQUEST] = self._ask(raw.data, variables)
        except InvalidRequestError as error:
            return raw._replace(data=data, error=InvalidRequestError(str(error)))
        return raw._replace(data=data)

    def _check(self, columns: Columns) -> None:
        for option, column in self._needed.items():
            if column not in columns:
                names = ", ".join(columns) or "no columns"
                raise InvalidRequestError(f"{option}={column!r}: missing; the row has {names}")


def _gap_is_null(value: Any) -> Any:
    # Which pandas has for a number that is not there.
    return None if isinstance(value, float) and math.isnan(value) else value


def _asking(template: Template) -> _Make:
    """Return what makes the prompt or the chat."""
    if not template.makes_chat:
        return lambda _, __: {}
    if template.prompt is not None and template.system is None:
        prompt = _prompt(template.prompt)
        return lambda _, variables: {"prompt": prompt(variables)}
    chat = _chat(template)
    if template.system is None:
        return lambda columns, variables: {"messages": chat(columns, variables)}
    system = compiled(template.system, "system")

    def ask(columns: Columns, variables: Columns) -> dict[str, Any]:
        messages = chat(columns, variables)
        if messages[0]["role"] not in ("system", "developer"):
            messages = [{"role": "system", "content": system(variables)}, *messages]
        return {"messages": messages}

    return ask


def _chat(template: Template) -> Callable[[Columns, Columns], Chat]:
    """Return what makes the messages of a row, but for the system's."""
    if template.messages is not None:
        render = _rendering(template.messages)
        return lambda _, variables: render(variables)
    if template.prompt is not None:
        prompt = _prompt(template.prompt)
        return lambda _, variables: _user(prompt(variables))
    return lambda columns, _: _own(columns)


def _prompt(text: str) -> Render:
    render = compiled(text, "prompt")

    def ask(variables: Columns) -> str:
        if not (said := render(variables)).strip():
            raise InvalidRequestError("prompt: the template makes an empty text of this row")
        return said

    return ask


def _user(text: Any) -> Chat:
    return [{"role": "user", "content": text}]


def _own(columns: Columns) -> Chat:
    """Return the chat that a row has of its own."""
    fields = source_of(columns)
    GenerationRequest.parse(fields)
    prompt, messages = fields.get("prompt"), fields.get("messages")
    return _user(prompt) if messages is None else list(messages)


def _rendering(messages: Chat) -> Callable[[Columns], Chat]:
    """Return what renders the contents of the messages."""
    made = [
        {**message, "content": _compiled(message.get("content"), f"messages[{at}].content")}
        for at, message in enumerate(messages)
    ]
    return lambda variables: [
        {**message, "content": _rendered(message["content"], variables)} for message in made
    ]


def _compiled(content: Any, where: str) -> Any:
    """Return content with what renders it in place of each string."""
    match content:
        case str():
            return compiled(content, where)
        case list():
            return [_compiled(each, f"{where}[{at}]") for at, each in enumerate(content)]
        case dict():
            return {
                key: each if key in ("type", "detail") else _compiled(each, where)
                for key, each in content.items()
            }
        case _:
            return content


def _rendered(content: Any, variables: Columns) -> Any:
    match content:
        case list():
            return [_rendered(each, variables) for each in content]
        case dict():
            return {key: _rendered(each, variables) for key, each in content.items()}
        case _:
            return content(variables) if callable(content) else content
