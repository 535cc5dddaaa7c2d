"""What may stand before the constrained part: markers, each one whole, and thoughts."""

from __future__ import annotations

import pytest

from vllm_mlx.batching.text.opening import Opening
from vllm_mlx.batching.text.thinking import Thinking, ThinkingMarkers

BEGIN, ROLE, OPEN, THINK, ANSWER, SEP, CLOSE, TEXT, OTHER = range(10, 19)
NAMES = "BROTASC"
ONE = ThinkingMarkers((OPEN,), (CLOSE,), (CLOSE,))
TWO = ThinkingMarkers((OPEN, THINK), (CLOSE,), (CLOSE,))
ANSWERS = ThinkingMarkers(
    (OPEN, THINK, SEP), (CLOSE, THINK, SEP), (CLOSE, THINK, SEP), answer=(OPEN, ANSWER, SEP)
)
CHANNELS = ThinkingMarkers(
    (OPEN, THINK, SEP),
    (CLOSE,),
    (CLOSE, BEGIN, ROLE, OPEN, ANSWER, SEP),
    frozenset((BEGIN, OPEN, CLOSE)),
    (BEGIN, ROLE),
    (OPEN, ANSWER, SEP),
)
TURN = [TEXT, CLOSE, BEGIN, ROLE]
"""A prompt that ends with the beginning of a header, as a chat template of channels has it."""


def followed(markers: ThinkingMarkers, prompt: list[int], tokens: list[int]) -> list[str]:
    """Return what may come before each of these tokens, and behind them."""
    opening = Opening(Thinking(markers, None, prompt, ()))
    told = []

    def tell() -> None:
        may = "".join(sorted(NAMES[token - BEGIN] for token in opening.tokens))
        told.append("over" if opening.is_over else may + "+" * opening.may_end or "all")

    tell()
    for token in tokens:
        assert opening.take(token)
        tell()
    return told


@pytest.mark.parametrize(
    ("markers", "prompt", "tokens", "told"),
    [
        (ONE, [], [OPEN, TEXT, CLOSE], ["O+", "all", "all", "over"]),
        (ONE, [OPEN], [OPEN, CLOSE], ["all", "all", "over"]),
        (TWO, [], [OPEN, THINK, OTHER, CLOSE], ["O+", "T", "all", "all", "over"]),
        (ANSWERS, [], [OPEN, ANSWER, SEP], ["O+", "AT", "S", "over"]),
        (
            ANSWERS,
            [OPEN, THINK, SEP],
            [CLOSE, OTHER, CLOSE, THINK, SEP, OPEN, ANSWER, SEP],
            ["all", "all", "all", "all", "all", "O+", "A", "S", "over"],
        ),
        (CHANNELS, TURN, [OPEN, ANSWER, SEP], ["O", "AT", "S", "over"]),
        (
            CHANNELS,
            TURN,
            [OPEN, THINK, SEP, OPEN, CLOSE, BEGIN, ROLE, OPEN, THINK, SEP, CLOSE, BEGIN],
            ["O", "AT", "S", "all", "all", "B", "R", "O", "AT", "S", "all", "B", "R"],
        ),
        (CHANNELS, [OPEN, THINK, SEP, TEXT], [CLOSE, BEGIN], ["all", "B", "R"]),
        (CHANNELS, [*TURN, OPEN, ANSWER, SEP, TEXT], [], ["O+"]),  # an answer is begun
        (CHANNELS, [TEXT, CLOSE], [BEGIN, ROLE, OPEN], ["B", "R", "O", "AT"]),
        (CHANNELS, [TEXT], [OPEN, ANSWER], ["O+", "AT", "S"]),  # a plain prompt
    ],
)
def test_what_may_be_next(
    markers: ThinkingMarkers, prompt: list[int], tokens: list[int], told: list[str]
) -> None:
    assert followed(markers, prompt, tokens) == told


@pytest.mark.parametrize("markers", [ONE, TWO, ANSWERS])
def test_what_opens_nothing_is_of_the_answer(markers: ThinkingMarkers) -> None:
    opening = Opening(Thinking(markers, None, [], ()))
    assert not opening.take(TEXT)
    assert opening.may_end
