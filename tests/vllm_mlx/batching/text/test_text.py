from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mlx.batching.text.text_stream import TextStream


class Pieces:
    """A detokenizer whose token n is the n-th piece: the real ones are used in the model tests."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces
        self.held = ""

    def add(self, token: int) -> str:
        return self.pieces[token]

    def finish(self) -> str:
        return self.held


def stream(pieces: list[str], stop: tuple[str, ...]) -> tuple[str, list[str], bool]:
    text = TextStream(Pieces(pieces), stop)
    chunks, stopped = [], False
    for token in range(len(pieces)):
        stopped = text.push(token)
        chunks.append(text.take())
        if stopped:
            break
    text.finish()
    chunks.append(text.take())
    return text.text, chunks, stopped


@pytest.mark.parametrize(
    ("pieces", "stop", "expected"),
    [
        (["one ", "E", "N", "D two"], ("END",), "one "),
        (["one END two"], ("END",), "one "),
        (["aXYb"], ("Y", "XY"), "a"),
        (["E", "N", "X"], ("END",), "ENX"),
        (["EE", "ND"], ("END",), "E"),
        (["no stop"], (), "no stop"),
        (["END"], ("END",), ""),
    ],
)
def test_the_text_ends_before_the_first_stop_string(pieces, stop, expected):
    text, chunks, _ = stream(pieces, stop)
    assert text == expected
    assert "".join(chunks) == text


def test_what_may_become_a_stop_string_is_held_back():
    text = TextStream(Pieces(["abc E", "N", "D"]), ("END",))
    text.push(0)
    assert text.take() == "abc "
    text.push(1)
    assert text.take() == ""
    assert text.push(2)
    assert text.take() == ""


def test_a_stop_string_in_what_the_end_flushes_is_found():
    pieces = Pieces(["one "])
    pieces.held = "END two"
    text = TextStream(pieces, ("END",))
    text.push(0)
    assert text.finish()
    assert text.text == "one "


def test_nothing_follows_a_stop_string_when_the_end_is_flushed():
    pieces = Pieces(["one END"])
    pieces.held = " two"
    text = TextStream(pieces, ("END",))
    assert text.push(0)
    assert not text.finish()
    assert text.text == text.take() == "one "


def test_half_a_character_at_the_end_is_dropped():
    pieces = Pieces(["one "])
    pieces.held = "\ufffd"
    text = TextStream(pieces, ())
    text.push(0)
    assert not text.finish()
    assert text.text == "one "


@given(
    st.lists(st.text("ab<", max_size=4), max_size=12),
    st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3),
)
def test_any_cut_into_tokens_gives_the_same_text(pieces, stops):
    whole = "".join(pieces)
    text, chunks, stopped = stream(pieces, tuple(stops))
    places = [whole.find(stop) for stop in stops if stop in whole]
    assert stopped == bool(places)
    assert "".join(chunks) == text
    if not places:
        assert text == whole
    else:
        # The stop that completes first ends the text; none may be left in it.
        assert whole.startswith(text)
        assert not any(stop in text for stop in stops)


def test_strings_are_looked_for_only_in_what_comes_after_they_are_named() -> None:
    text = TextStream(Pieces(["one END", " two E", "ND three", " END"]), None)
    assert not text.push(0)
    text.stop_at(("END",))
    assert not text.push(1)
    assert text.push(2)
    assert text.text == "one END two "
