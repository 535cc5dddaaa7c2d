"""How much an expression or a grammar has to repeat at least.

What leaves no choice is looked through again at each step, so that `(a{1000}){1000}` would take
half a second of it, and hold up all rows beside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from math import inf

from vllm_mlx.errors import shown

MOST = 10_000
"""Characters; at so many a step takes some milliseconds."""

_COUNT = r"[*+?]|\{\s*(?:\d+\s*(?:,\s*\d*\s*)?|,\s*\d+\s*)\}"
_REGEX = re.compile(
    rf"\(\?[a-zA-Z-]+\)|(?P<open>\((?:\?(?:P?<\w+>|[a-zA-Z-]*:))?)|(?P<close>\))|(?P<or>\|)"
    rf"|(?P<count>{_COUNT})\??"
    r"|(?P<atom>\\[xuU]\{[^}]*\}|\\[pP]\{[^}]*\}|\\x..|\\."
    r"|\[\^?\]?(?:\\.|\[(?:\\.|[^\]\\])*\]|[^\]\\\[])*\]|.)",
    re.DOTALL,
)
_LARK = re.compile(
    r"(?://|#)[^\n]*|(?P<rule>(?:^|(?<=\n))\s*[?!]?(?P<name>[A-Za-z_][\w-]*)[^\n:\"/|]*:(?!:))"
    rf"|(?P<open>[(\[])|(?P<close>[)\]])|(?P<or>\|)|(?P<count>{_COUNT}|~\s*\d+(?:\s*\.\.\s*\d+)?)"
    r'|(?P<text>"(?:\\.|[^"\\])*")|(?P<regex>/(?:\\.|[^/\\\n])+/)|(?P<atom>[A-Za-z_][\w-]*|<[^<>\s]+>)',
)


def require_few(regex: str, where: str) -> None:
    """Make sure that an expression repeats no more than can be looked through.

    Raises:
        ValueError: it does.
    """
    if (least := least_of_regex(regex)) > MOST:
        raise ValueError(f"{where}={shown(regex)}: {too_many(least)}")


def too_many(least: float) -> str:
    """Return what is said of so many characters that have to be there."""
    if least == inf:
        return "a rule leads to itself without an end, so that no answer could be whole"
    return f"stands for {least:,.0f} characters at least; allowed are {MOST:,}: repeat less"


def least_of_regex(regex: str) -> float:
    """Return how many characters the longest part of an expression has at least."""
    return _measured(_REGEX.finditer(regex), lambda _: 1)[1]


def least_of_lark(grammar: str) -> float:
    """Return how many characters the longest part of a grammar has at least."""
    rules: dict[str, list[re.Match[str]]] = {}
    name = ""
    for found in _LARK.finditer(grammar):
        if found["rule"]:
            name = found["name"]
        else:
            rules.setdefault(name, []).append(found)
    sizes: dict[str, float] = dict.fromkeys(rules, inf)

    def size(found: re.Match[str]) -> float:
        if text := found["text"]:
            return len(text) - 2
        if regex := found["regex"]:
            return _measured(_REGEX.finditer(regex[1:-1]), lambda _: 1)[0]
        return sizes.get(found["atom"], 1)

    for _ in rules:  # a rule may stand before those that it names
        new = {name: _measured(parts, size)[0] for name, parts in rules.items()}
        if new == sizes:
            break
        sizes = new
    inner = (found["regex"] for parts in rules.values() for found in parts if found["regex"])
    parts = (_measured(parts, size)[1] for parts in rules.values())
    return max([0, *parts, *(least_of_regex(regex[1:-1]) for regex in inner)])


def _measured(
    parts: Iterable[re.Match[str]], size: Callable[[re.Match[str]], float]
) -> tuple[float, float]:
    """Return the size of the shortest text, and of the largest part that has no shorter one."""
    most = before = last = 0.0  # `last` is what a count after it repeats
    best = inf
    outer: list[tuple[float, float]] = []
    for found in parts:
        if count := found["count"]:
            last = last * least if (least := _least(count)) else 0.0
            continue
        before, last = before + last, 0.0
        most = max(most, before)
        if found["open"]:
            outer.append((best, before))
            best, before = inf, 0.0
        elif found["or"]:
            best, before = min(best, before), 0.0
        elif found["close"] and outer:
            last = 0.0 if found["close"] == "]" else min(best, before)
            best, before = outer.pop()
        elif found.lastgroup in ("atom", "text", "regex"):
            last = size(found)
    total = before + last
    return min(best, total), max(most, total)


def _least(count: str) -> int:
    digits = re.match(r"[{~]\s*(\d+)", count)
    return int(digits[1]) if digits else int(count == "+")
