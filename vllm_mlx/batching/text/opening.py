"""`Opening`: what a model may say before the constrained part of its answer.

These are its thoughts and the headers of its own form, marker by marker; nothing else is let
through, so whatever follows is constrained.
"""

from __future__ import annotations

from vllm_mlx.batching.text.thinking import Thinking

Tokens = tuple[int, ...]


class Opening:
    """Follows an answer up to its constrained part.

    A thought may open an answer, several may where each message has a header. Within one anything
    may be said; a marker that has begun goes on as it has to.

    Attributes:
        may_end: the constrained part may begin with the next token.
        is_over: it does.

    Args:
        thinking: follows the thoughts; the opening has it to itself.
    """

    def __init__(self, thinking: Thinking) -> None:
        self._thinking = thinking
        self._ways: list[Tokens] = []  # how what was said of a marker may go on
        self.may_end = False
        self.is_over = False
        if thinking.state.is_open:
            return
        markers, header = thinking.markers, thinking.header
        self._expect(markers.turn if markers.end[-1:] == header[:1] else ())
        self.may_end = not header

    @property
    def tokens(self) -> set[int]:
        """Tokens that may be next, beside those with which the constrained part begins.

        Without any, and if that can't begin, there is a thought, which may say everything.
        """
        return {way[0] for way in self._ways}

    def take(self, token: int) -> bool:
        """Go on by a token; False if it is no part of the opening."""
        was_open = self._thinking.take(token).is_open
        is_open = self._thinking.state.is_open
        if was_open:
            if not is_open:
                self._expect_answer()
            return True
        ways = [way[1:] for way in self._ways if way[0] == token]
        if not ways:
            return False
        is_marker = () in ways
        self._ways = [] if is_marker else ways
        self.may_end = False
        self.is_over = is_marker and not is_open
        return True

    def _expect(self, before: Tokens) -> None:
        markers = self._thinking.markers
        self._ways = [before + each for each in (markers.start, markers.answer) if each]

    def _expect_answer(self) -> None:
        """Where messages have headers, it may be another thought."""
        markers = self._thinking.markers
        if markers.header:
            self._expect(markers.turn)
        else:
            self._ways = [markers.answer] if markers.answer else []
            self.may_end = True
            self.is_over = not self._ways
