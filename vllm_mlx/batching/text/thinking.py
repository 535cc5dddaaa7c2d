"""What a model thinks before it answers: its markers, where a thought stands, and its budget.

Markers are tokens, so a text that merely names them is no thought.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

_ORDINARY = -2  # a token that is part of no marker


@dataclass(frozen=True, slots=True)
class ThinkingMarkers:
    """The tokens between which a model thinks.

    Attributes:
        start, end: open and close a thought.
        closing: what closes one whose budget is spent, so that the answer goes on: `end`, and what
            this model writes between it and an answer.
        header: where each message has a header, the tokens that may begin one; it ends with the
            last token of `start`.
        turn: what a header has before `start` or `answer` if it follows another message.
        answer: opens an answer, where this model marks one.
        around: other markers, such as those that open and close an answer, which are no text.
    """

    start: tuple[int, ...]
    end: tuple[int, ...]
    closing: tuple[int, ...]
    header: frozenset[int] = frozenset()
    turn: tuple[int, ...] = ()
    answer: tuple[int, ...] = ()
    around: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(cls, tokenizer: Any) -> Self | None:
        """Return those that mlx-lm knows of its tokenizer, or gpt-oss' channels; None without."""

        def written(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False))

        if tokenizer.has_thinking:
            start, end = tokenizer.think_start_tokens, tokenizer.think_end_tokens
            around = tuple(written(text) for text in tokenizer.structural_markers)
            answer = around[0] if around else ()
            return cls(tuple(start), tuple(end), tuple(end), answer=answer, around=around)
        names = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
        vocab = tokenizer.get_vocab()
        if not all(name in vocab for name in names):
            return None
        begin, channel, _, end = (vocab[name] for name in names)
        turn = written("<|start|>assistant")
        answer = written("<|channel|>final<|message|>")
        return cls(
            written("<|channel|>analysis<|message|>"),
            (end,),
            (end, *turn, *answer),
            frozenset((begin, channel, end)),
            turn,
            answer,
        )


class ThoughtState(NamedTuple):
    """Where a sequence stands between its markers.

    Attributes:
        is_open: it is thinking.
        matched: how many tokens of the next marker, which may open or close, its last ones are.
        spent: tokens of its thoughts so far, without markers.
        forced: tokens that have to follow.
    """

    is_open: bool = False
    matched: int = 0
    spent: int = 0
    forced: tuple[int, ...] = ()


class Thinking:
    """Follows one sequence through its thoughts, and says what has to come when they are too long.

    Attributes:
        state: after the tokens that were taken.
        header: what the prompt ends with of a header, whose marker is still to come.

    Args:
        budget: most tokens of all thoughts together; None without a bound.
        prompt: tokens of the prompt, which may have opened a thought.
        ends: tokens that end a turn.
    """

    def __init__(
        self,
        markers: ThinkingMarkers,
        budget: int | None,
        prompt: list[int],
        ends: Collection[int],
    ) -> None:
        self.markers = markers
        self.budget = budget
        self.state = ThoughtState(is_open=_opens(markers, prompt, ends))
        self.header = _header(markers, prompt) if markers.header else ()

    def take(self, token: int) -> ThoughtState:
        """Go on by a token; returns the state before it."""
        before, self.state = self.state, self._after(self.state, token)
        return before

    def forced(self, unread: int) -> Forced:
        """Return what has to come now, or after `unread` more tokens (at most one), which the model
        has chosen already but nobody has read."""
        state = self.state
        if not unread:
            return Forced(self._next(state))
        if (known := self._next(state)) is not None:
            return Forced(self._next(self._after(state, known)))
        awaited = self._marker(state)[state.matched]
        return Forced(
            self._next(self._after(state, _ORDINARY)),
            awaited,
            self._next(self._after(state, awaited)),
        )

    def _marker(self, state: ThoughtState) -> tuple[int, ...]:
        return self.markers.end if state.is_open else self.markers.start

    def _next(self, state: ThoughtState) -> int | None:
        if state.forced:
            return state.forced[0]
        if state.is_open and self.budget is not None and state.spent >= self.budget:
            return self.markers.closing[state.matched]
        return None

    def _after(self, state: ThoughtState, token: int) -> ThoughtState:
        is_open, matched, spent, forced = state
        if token == self._next(state):
            forced = forced[1:] if forced else self.markers.closing[matched + 1 :]
        marker = self._marker(state)
        if token == marker[matched]:
            if matched + 1 == len(marker):
                return ThoughtState(not is_open, 0, spent, forced)
            return ThoughtState(is_open, matched + 1, spent, forced)
        again = int(token == marker[0])
        return ThoughtState(is_open, again, spent + is_open * (matched + 1 - again), forced)


class Forced(NamedTuple):
    """The token that has to come next, or None for any.

    Attributes:
        token: what has to come,
        awaited: unless the token before it, which nobody has read, is this one:
        after_awaited: then this has to.
    """

    token: int | None
    awaited: int | None = None
    after_awaited: int | None = None

    @property
    def is_free(self) -> bool:
        return self.token is None and self.after_awaited is None


def _opens(markers: ThinkingMarkers, prompt: list[int], ends: Collection[int]) -> bool:
    """Whether a prompt ends within a thought, which it may only have begun in its last turn."""
    for at in range(len(prompt) - 1, -1, -1):
        for marker in (markers.start, markers.end):
            if prompt[at] == marker[0] and tuple(prompt[at : at + len(marker)]) == marker:
                return marker is markers.start
        if prompt[at] in ends:
            return False
    return False


def _header(markers: ThinkingMarkers, prompt: list[int]) -> tuple[int, ...]:
    """Return what a prompt ends with of a header; nothing if it ends in a marker or in text."""
    for at in range(len(prompt) - 1, -1, -1):
        if prompt[at] in (markers.start[0], markers.start[-1]):
            break
        if prompt[at] in markers.header:
            return tuple(prompt[at:])
    return ()
