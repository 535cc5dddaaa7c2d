"""What llguidance says of grammars, in words for people who do not know it. Needs no MLX."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from vllm_mlx.errors import shown

FORMATS = (
    *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"),
)
_MOST = 300
"""Characters of what is said."""
_DUMP = re.compile(r"\s*(?:<state>|<non-verbose/>|<grammar>|; following special tokens)")
_PLACE = re.compile(r"(?:at )?(\d+)\((\d+)\): ")
_LOOKS = re.compile(r"lookarounds not supported.* in regex /(.+)/$", re.MULTILINE)
_EXPRESSION = re.compile(r"regex parse error:\n {4}(.*)\n[\s\S]*\nerror: (.+)")
_NO_START = (
    "as GBNF it has no rule `root ::= …`, and as Lark no rule `start: …`: one of them is where "
    "answers begin"
)
_Words = str | Callable[[re.Match[str]], str]


def _keywords(found: re.Match[str]) -> str:
    return f"not supported: {', '.join(json.loads(found[1]))}; leave it out of the schema"


_WORDS: tuple[tuple[str, _Words], ...] = (
    (r"Unimplemented keys: (\[.*\])", _keywords),
    (r"oneOf constraints are not supported\..*", "oneOf: not supported where more than one of its "
     "schemas might hold; use anyOf"),
    (r"patternProperty regexes", "patternProperties:"),
    (r"Unknown format: (.*)", rf"Unknown format: \1; known are {', '.join(FORMATS)}: use one of "
     "them, or a pattern, or leave it out"),
    (r".*Expected ::= .*", _NO_START),
    (r"Failed to convert the grammar from GBNF to Lark", "as GBNF"),
    (r"NoExtension(?:Bias)?", "no text goes on from here, as a part of it stands for no text; "
     "leave that part out"),
    (r".*(?:TooComplex|[Tt]oo many (?:items|expressions|lexer states)).*", "it is too complex to "
     "go on; split it, or leave less choice"),
    (r"Parser Error: token .*", "a token is no part of it"),
)  # fmt: skip


def in_words(error: str) -> str:
    """Return the first sentence of an error of llguidance's, in one line.

    What follows there is its own state, and the whole grammar.
    """
    error = _DUMP.split(error, maxsplit=1)[0]
    if found := _EXPRESSION.search(error):
        return f"{shown(found[1])} is no expression that is supported: {found[2].strip()}"
    if found := _LOOKS.search(error):
        return (
            f"{shown(found[1])} has an anchor or a word boundary, which is not supported: an "
            "expression holds for the whole answer, so leave it out"
        )
    place = _PLACE.match(error)
    said = (error[place.end() :] if place else error).strip().partition("\n")[0]
    for theirs, ours in _WORDS:
        said = re.sub(theirs, ours, said)
    if place:
        said = f"line {place[1]}, column {place[2]}: {said}"
    return said if len(said) <= _MOST else f"{said[: _MOST - 1]}…"
