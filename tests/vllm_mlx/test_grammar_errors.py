"""What llguidance says of a grammar comes in a sentence, without its state and the grammar."""

from __future__ import annotations

from typing import Any

import pytest
from llguidance import LLMatcher, LLParserLimits

from tests.helpers.grammars import ALPHABET, grammars
from vllm_mlx.grammar_errors import in_words
from vllm_mlx.structured_outputs import StructuredOutputs


@pytest.mark.parametrize(
    ("outputs", "answer", "limits", "said"),
    [
        ({"regex": "a[a&&b]"}, "", {}, "no text goes on from here"),
        ({"regex": "b[a&&b]*c|x"}, "a", {}, "a token is no part of it"),
        ({"regex": "(a|b|c)*a(a|b|c){8}"}, "", {"step_lexer_fuel": 10}, "too complex"),
    ],
)
def test_errors_on_the_way_are_a_sentence(
    outputs: Any, answer: str, limits: dict[str, Any], said: str
) -> None:
    grammar = StructuredOutputs.of(outputs).grammar
    matcher = LLMatcher(
        grammars()._tokenizer, grammar, log_level=0, limits=LLParserLimits(**limits)
    )
    matcher.consume_tokens([ALPHABET.index(char) for char in answer])
    matcher.compute_bitmask()
    error = matcher.get_error()
    assert error
    assert said in in_words(error)
    assert len(in_words(error)) < 100
    assert not {"<", "{", "\n"} & set(in_words(error))


def test_what_is_long_is_cut() -> None:
    assert in_words("x" * 1000) == "x" * 299 + "…"
    items = "parser error: Too many items (limit 20; ff_tokens); try avoiding short lexemes"
    assert in_words(items) == "it is too complex to go on; split it, or leave less choice"
    assert in_words("at 1(8): odd; following special tokens are: a, b") == "line 1, column 8: odd"
