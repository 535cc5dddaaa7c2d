"""`StructuredOutputs`: what an answer must be, however it was asked for. Needs no MLX."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

from llguidance import LLMatcher, LLParserLimits, grammar_from
from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from vllm_mlx.errors import shown
from vllm_mlx.grammar_errors import in_words
from vllm_mlx.json_record import half_text, odd_number
from vllm_mlx.json_schema import closed, require_keywords, with_whole_sizes
from vllm_mlx.repetitions import MOST, least_of_lark, require_few, too_many

Kind = Literal["json", "regex", "choice", "grammar", "json_object", "text"]
KINDS: tuple[Kind, ...] = ("json", "regex", "choice", "grammar", "json_object")
"""The kinds that constrain, as vLLM names them; `text` is free, whatever the run's default is."""

LIMITS = LLParserLimits(
    max_items_in_row=100_000,
    step_max_items=500_000,
    initial_lexer_fuel=20_000_000,
    step_lexer_fuel=2_000_000,
    max_grammar_size=2_000_000,
    verbose_errors=False,  # as long as a grammar and its state
)
"""llguidance's own would let 900 optional properties pass and stop them at the first token."""
_JSON_OPTIONS: Any = {
    "whitespace_pattern": r" |\n[ \t]{0,32}",  # unbounded, a model may write nothing else
    "lenient": False,  # said here, so that a schema's own `x-guidance` can't
    "coerce_one_of": False,
}


@dataclass(frozen=True, slots=True)
class StructuredOutputs:
    """What an answer must be.

    Attributes:
        value: the schema as compact JSON in its own order, the regular expression, the labels, or
            the grammar; empty for `json_object` and `text`.
    """

    kind: Kind
    value: str | tuple[str, ...] = ""

    @classmethod
    def of(cls, given: Any) -> StructuredOutputs:
        """Return what a `structured_outputs` stands for, as vLLM writes it.

        Raises:
            ValueError: it is none, or one that can't be held.
        """
        if isinstance(given, StructuredOutputs):
            return given
        if isinstance(given, str):
            given = _from_json(given)
        if not isinstance(given, Mapping):
            raise ValueError(f"should be an object with one of {', '.join(KINDS)}")
        if given == {"type": "text"}:
            return cls("text")
        said = {key: each for key, each in given.items() if each is not None}
        if said.get("json_object") is False:
            del said["json_object"]
        if unknown := [key for key in said if key not in KINDS]:
            raise ValueError(f"{unknown[0]}: unknown field; allowed are {', '.join(KINDS)}")
        if len(said) != 1:
            raise ValueError(f"give exactly one of {', '.join(KINDS)}")
        ((kind, value),) = said.items()
        return cls._checked(kind, value)

    @classmethod
    def of_response_format(cls, given: Any) -> StructuredOutputs:
        """Return what a `response_format` stands for, as OpenAI writes it.

        Raises:
            ValueError: it is none, or one that can't be held.
        """
        if isinstance(given, str):
            if given in ("text", "json_object"):
                raise ValueError(f'should be an object: {{"type": "{given}"}}')
            given = _from_json(given)
        kind = given.get("type") if isinstance(given, Mapping) else None
        if kind == "text":
            return cls("text")
        if kind == "json_object":
            return cls._checked("json_object", True)
        if kind != "json_schema":
            raise ValueError("type should be text, json_object or json_schema")
        inner = given.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, Mapping) else None
        if schema is None:
            raise ValueError("json_schema.schema: missing")
        return cls._checked("json", schema)

    @classmethod
    def _checked(cls, kind: Any, value: Any) -> StructuredOutputs:
        found = cls(kind, _NORMAL[kind](value))
        if reason := _refusal(found):
            raise ValueError(f"{kind}: {reason}")
        return found

    def __bool__(self) -> bool:
        """Whether it constrains anything."""
        return self.kind != "text"

    @property
    def as_given(self) -> dict[str, Any]:
        """The same as `of` takes it."""
        match self.kind:
            case "text":
                return {"type": "text"}
            case "json_object":
                return {"json_object": True}
            case "choice":
                return {"choice": list(self.value)}
            case kind:
                return {kind: self.value}

    @property
    def schema(self) -> dict[str, Any] | None:
        """The schema of JSON, as answers are held to it: objects have the properties it names."""
        if self.kind != "json":
            return None
        return closed(json.loads(str(self.value)))

    @property
    def grammar(self) -> str:
        """The grammar of all answers, as llguidance takes it.

        Raises:
            ValueError: there is none for it.
        """
        match self.kind:
            case "json" | "json_object":
                schema = self.schema or {"type": "object"}
                return LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_OPTIONS)
            case "choice":  # as an expression: a grammar's rule has its limit of alternatives
                return LLMatcher.grammar_from_regex("|".join(map(_escaped, self.value)))
            case "regex":
                return LLMatcher.grammar_from_regex(_in_ascii(str(self.value)))
            case "grammar":
                return grammar_from("grammar", str(self.value))
            case "text":
                raise ValueError("text has no grammar")


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None


def _schema(value: Any) -> str:
    schema = _from_json(value) if isinstance(value, str) else value
    if not isinstance(schema, Mapping):
        raise ValueError(f"json={shown(schema)}: should be a JSON schema, an object")
    try:
        _require_text(schema, "$")
        require_keywords(schema)
        schema = with_whole_sizes(schema)
        _require_numbers(schema)
        return json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise ValueError("json: the schema is nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"json: {error}") from None


def _require_numbers(value: Any) -> None:
    if refusal := odd_number(value, "$"):
        raise ValueError(refusal)


def _require_text(value: Any, where: str) -> None:
    if refusal := half_text(value, where):
        raise ValueError(refusal)


def _labels(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"choice={shown(value)}: should be a list of strings")
    for label in value:
        if not isinstance(label, str) or not label:
            raise ValueError(f"choice: {shown(label)} should be a string of a character or more")
    _require_text(value, "choice")
    label, count = Counter(value).most_common(1)[0]
    if count > 1:
        raise ValueError(f"choice: {shown(label)} stands there twice")
    return tuple(value)


def _text(kind: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{kind}={shown(value)}: should be a string of a character or more")
    _require_text(value, kind)
    if kind == "grammar" and "x-guidance" in value:
        raise ValueError("grammar: x-guidance: not supported; leave it out")
    if kind == "regex":
        require_few(value, kind)
    else:
        _require_held_schemas(value)
    return value


def _require_held_schemas(grammar: str) -> None:
    """Refuse what a schema within a grammar of Lark's may not say."""
    for found in re.finditer(r"%json\s*(?=\{)", grammar):
        try:
            schema, _ = json.JSONDecoder().raw_decode(grammar, found.end())
        except (ValueError, RecursionError):
            continue  # the compiler says why
        try:
            require_keywords(schema)
        except ValueError as error:
            raise ValueError(f"grammar: %json: {error}") from None


def _nothing(value: Any) -> str:
    if value is not True:
        raise ValueError(f"json_object={shown(value)}: should be true")
    return ""


_NORMAL: dict[Kind, Any] = {
    "json": _schema,
    "regex": lambda value: _text("regex", value),
    "choice": _labels,
    "grammar": lambda value: _text("grammar", value),
    "json_object": _nothing,
}


_ASCII = {"d": "0-9", "w": "0-9A-Za-z_"}


def _in_ascii(regex: str) -> str:
    """Return an expression whose digits and letters are ASCII's, as most systems read it.

    By itself a `\\d` would be a digit of any script.
    """
    depth = 0  # of brackets: a class may hold classes

    def written(found: re.Match[str]) -> str:
        nonlocal depth
        text = found[0]
        if text in ("[", "]"):
            depth = max(0, depth + (1 if text == "[" else -1))
        elif (kind := text[1:].lower()) in _ASCII and (depth == 0 or text[1].islower()):
            inverted = "^" if text[1].isupper() else ""
            return _ASCII[kind] if depth else f"[{inverted}{_ASCII[kind]}]"
        return text

    return re.sub(r"\\.|[\[\]]", written, regex, flags=re.DOTALL)


def _escaped(label: str) -> str:
    return "".join(
        char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):x}}}" for char in label
    )


@lru_cache(maxsize=4096)
def _refusal(found: StructuredOutputs) -> str | None:
    """Return why no answer could be held to it, or None."""
    try:
        grammar = found.grammar
        if found.kind == "grammar" and (least := least_of_lark(grammar)) > MOST:
            return too_many(least)
        error = LLMatcher.validate_grammar(grammar, None, limits=LIMITS)
    except (TypeError, ValueError, RecursionError) as raised:
        error = str(raised)
    return None if not error or error.startswith("WARNING") else in_words(error)


def _of(given: Any) -> StructuredOutputs | None:
    return None if given is None else StructuredOutputs.of(given)


def _as_given(held: StructuredOutputs | None) -> dict[str, Any] | None:
    return None if held is None else held.as_given


StructuredOutputsField = Annotated[
    StructuredOutputs | None,
    BeforeValidator(_of),
    PlainSerializer(_as_given),
    WithJsonSchema({"type": "object"}),
]
"""`StructuredOutputs` as a setting: read from what a user writes, and written so."""
