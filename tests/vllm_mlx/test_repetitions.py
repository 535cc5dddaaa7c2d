"""How long the shortest text of an expression or a grammar is, in its longest part."""

from __future__ import annotations

from math import inf

import pytest

from vllm_mlx.repetitions import least_of_lark, least_of_regex


@pytest.mark.parametrize(
    ("regex", "least"),
    [
        ("a{1000}", 1000),
        ("(a{10}){20}b", 201),
        ("x?(?:ab){3,}c+d*?", 7),
        ("(a|b{5}){10}", 10),
        ("((a?){1000}){1000}", 0),
        ("[a-z]{0,10000}", 0),
        (r"\d{4}-\x{61}{2}\p{Lu}", 8),
        ("[^]a]{7}", 7),
        (r"[[:alpha:]\]]{3}", 3),
        (r"\({2}\)", 3),
        ("(?P<n>ab){3}(?i)(?i:c)", 7),
    ],
)
def test_expressions(regex: str, least: float) -> None:
    assert least_of_regex(regex) == least


@pytest.mark.parametrize(
    ("grammar", "least"),
    [
        ('start: "ab"{100}', 200),
        ('start: a ~ 10..20\na: b\nb: "x" ~ 5', 50),
        ('start: "a" | b\nb: A{30}\nA: /[a-z]{2}/', 60),
        ("start: /(a{10}){20}|b/", 200),
        ('start: a\na: a "c" | "b"', 2),
        ('start: a b\na: b | "x"\nb: a "y"', 3),
        ('start: "{" [y] // "\n  | start\ny: "b"*', 1),
        ("start: a\na: b\nb: a", inf),
    ],
)
def test_grammars(grammar: str, least: float) -> None:
    assert least_of_lark(grammar) == least
