"""Tokens of thinking models as two texts, token by token and in pieces."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vllm_mlx.batching.text.test_text import Pieces
from vllm_mlx.batching.text.text_stream import TextStream
from vllm_mlx.batching.text.thinking import Thinking, ThinkingMarkers
from vllm_mlx.batching.text.thought_text import ThoughtText

PIECES = ["a ", " b", "\n", "S", "s", "E", "e", "H", "M", "F"]
A, B, BREAK, S1, S2, E1, E2, HEADER, MESSAGE, FINAL = range(10)
ONE = ThinkingMarkers((S1,), (E1,), (E1,))
TWO = ThinkingMarkers((S1, S2), (E1, E2), (E1, E2))
CHANNELS = ThinkingMarkers(
    (HEADER, S1, MESSAGE),
    (E1,),
    (E1, HEADER, FINAL, MESSAGE),
    frozenset((HEADER, E1)),
    answer=(HEADER, FINAL, MESSAGE),
)
AROUND = ThinkingMarkers((S1,), (E1,), (E1,), around=((HEADER, A, FINAL), (MESSAGE, FINAL)))


def texts(
    markers: ThinkingMarkers,
    tokens: list[int],
    prompt: list[int] | None = None,
    is_cut: bool = False,
) -> tuple[str | None, str, list[str], list[str], int]:
    thinking = Thinking(markers, None, prompt or [], ())
    answer = TextStream(Pieces(PIECES), ("b\nb",))
    parts = ThoughtText(thinking, answer, lambda: Pieces(PIECES))
    thoughts, answers = [], []
    for token in tokens:
        stopped = parts.push(token)
        thoughts.append(parts.take_reasoning() or "")
        answers.append(answer.take())
        if stopped:
            break
    parts.finish(is_cut=is_cut)
    thoughts.append(parts.take_reasoning() or "")
    answers.append(answer.take())
    return parts.reasoning, answer.text, thoughts, answers, thinking.state.spent


@pytest.mark.parametrize(
    ("markers", "tokens", "reasoning", "text"),
    [
        (ONE, [S1, BREAK, A, B, BREAK, E1, BREAK, BREAK, A], "a  b", "a "),
        (ONE, [A, S1, B, E1, B], "b", "a  b"),
        (ONE, [A, E1, B], None, "a E b"),  # nothing was open
        (ONE, [S1, A, E1, S1, B, E1, A], "a \n b", "a "),
        (ONE, [S1, E1, A], "", "a "),
        (ONE, [BREAK, A], None, "\na "),
        (ONE, [S1, A, B, BREAK, B, E1, A], "a  b\n b", "a "),  # a stop string in a thought
        (TWO, [S1, S2, A, E1, A, E1, E2, B], "a Ea", "b"),
        (TWO, [S1, A, B], None, "Sa  b"),
        (TWO, [S1, S1, S2, A, E1], "a", "S"),
        (TWO, [B, S1], None, " bS"),  # it would have been a marker's first token
        (TWO, [S1, S2, A, E1, E2, B, S1], "a", "bS"),
        (TWO, [BREAK, B, S1], None, "\n bS"),
        (AROUND, [S1, A, E1, HEADER, A, FINAL, B, MESSAGE, FINAL], "a", "b"),
        (AROUND, [HEADER, A, FINAL, B, MESSAGE, B], None, " bM b"),
        (AROUND, [HEADER, B, HEADER, A, FINAL, A], None, "H ba "),
        (AROUND, [B, HEADER, A], None, " bHa "),
        (AROUND, [A, MESSAGE, MESSAGE, FINAL], None, "a M"),
        (CHANNELS, [HEADER, S1, MESSAGE, A, E1, HEADER, FINAL, MESSAGE, B], "a", "b"),
        (CHANNELS, [HEADER, FINAL, MESSAGE, A, B], None, "a  b"),
        (CHANNELS, [HEADER, A, MESSAGE, B], None, "Ha M b"),
        (CHANNELS, [HEADER, S1, MESSAGE, A, E1, HEADER, FINAL], "a", ""),
    ],
)
def test_what_was_thought_and_what_was_said(
    markers: ThinkingMarkers, tokens: list[int], reasoning: str | None, text: str
) -> None:
    found = texts(markers, tokens)
    assert (found[0], found[1]) == (reasoning, text)


@pytest.mark.parametrize(
    ("markers", "tokens", "text"),
    [(TWO, [B, S1], " b"), (AROUND, [B, HEADER, A], " b"), (AROUND, [B, MESSAGE], " b")],
)
def test_what_is_cut_may_have_become_a_marker(
    markers: ThinkingMarkers, tokens: list[int], text: str
) -> None:
    assert texts(markers, tokens, is_cut=True)[1] == text


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [([A, S1], True), ([S1, A], True), ([S1, A, E1], False), ([S1, FINAL, A], False), ([], False)],
)
def test_a_prompt_opens_a_thought_in_its_last_turn(prompt: list[int], is_open: bool) -> None:
    assert Thinking(ONE, None, prompt, {FINAL}).state.is_open is is_open


@given(st.lists(st.sampled_from([A, B, BREAK, S1, E1])), st.booleans())
def test_any_order_of_markers(tokens: list[int], opened: bool) -> None:
    """As a regular expression finds thoughts in the whole text."""
    reasoning, text, thoughts, answers, spent = texts(ONE, tokens, [S1] if opened else [])
    assert "".join(thoughts) == (reasoning or "")
    assert "".join(answers) == text
    whole = ("<" if opened else "") + "".join(
        "ab\n<>"[[A, B, BREAK, S1, E1].index(t)] for t in tokens
    )
    found = re.findall(r"<([^>]*)(?:>|$)", whole)
    assert (reasoning is None) is (not found)
    if "b\nb" not in re.sub(r"<([^>]*)(?:>|$)", "", whole):
        assert spent == sum(map(len, found))
