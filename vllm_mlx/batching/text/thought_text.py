"""`ThoughtText`: tokens of a thinking model as two texts, what it thought and what it answered."""

from __future__ import annotations

from collections.abc import Callable, Collection

from vllm_mlx.batching.text.text_stream import Detokenizer, TextStream
from vllm_mlx.batching.text.thinking import Thinking, ThinkingMarkers


class ThoughtText:
    """Parts the tokens of one sequence; markers are in neither text.

    Attributes:
        answer: the text; stop strings are looked for in it alone, and it begins with what is no
            white space if it follows a thought.
    """

    def __init__(
        self, thinking: Thinking, answer: TextStream, new_detokenizer: Callable[[], Detokenizer]
    ) -> None:
        self._thinking = thinking
        self.answer = answer
        self._new_detokenizer = new_detokenizer
        self._thought: TextStream | None = None
        self._pending: list[int] = []  # may be of a marker
        self._header: list[int] | None = None
        self._around: list[int] = []  # may be of a marker around the answer
        self._held = ""  # white space that may be the thought's last
        if thinking.state.is_open:
            self._begin()

    def push(self, token: int) -> bool:
        """Add one token; True when a stop string is complete."""
        before, state = self._thinking.take(token), self._thinking.state
        self._pending.append(token)
        if state.is_open != before.is_open:
            self._pending.clear()
            self._header = None
            self._around.clear()
            self._begin() if state.is_open else self.answer.trim()
            return False
        ready = len(self._pending) - state.matched
        tokens, self._pending = self._pending[:ready], self._pending[ready:]
        is_stopped = any(self._write(each) for each in tokens)
        if is_stopped:
            self._pending.clear()
        return is_stopped

    def finish(self, *, is_cut: bool) -> bool:
        """Return what was held back; True when it completes a stop string.

        What may be of a marker is text only if nothing could have followed to make it one.

        Args:
            is_cut: the text would have gone on.
        """
        pending, self._pending = self._pending, []
        if self._thought:
            self._thought.finish()
        if not (is_cut or self._thinking.state.is_open):
            is_stopped = any(map(self._write, pending))
            held, self._around = self._around, []
            if is_stopped or any(map(self.answer.push, held)):
                return True
        return self.answer.finish()

    def take_reasoning(self) -> str | None:
        """Return what of thoughts is certain and was not taken before; None before the first."""
        if self._thought is None:
            return None
        piece = self._held + self._thought.take()
        certain = piece.rstrip()
        self._held = piece[len(certain) :]
        return certain

    @property
    def reasoning(self) -> str | None:
        """All thoughts so far, without white space around them; None without any."""
        return self._thought.text.rstrip() if self._thought else None

    def _begin(self) -> None:
        if self._thought is None:
            self._thought = TextStream(self._new_detokenizer(), None)
            self._thought.trim()
        elif self._thought.text:
            self._thought.write("\n")

    def _write(self, token: int) -> bool:
        if self._thinking.state.is_open and self._thought:
            return self._thought.push(token)
        markers = self._thinking.markers
        tokens = self._after_header(markers, token)
        if markers.around:
            tokens = self._between(markers.around, tokens)
        return any(self.answer.push(each) for each in tokens)

    def _between(self, markers: Collection[tuple[int, ...]], tokens: list[int]) -> list[int]:
        """Return what is of no marker around the answer, as soon as that is certain."""
        certain = []
        for token in tokens:
            held = self._around
            held.append(token)
            while held and not any(marker[: len(held)] == tuple(held) for marker in markers):
                certain.append(held.pop(0))
            if tuple(held) in markers:
                held.clear()
        return certain

    def _after_header(self, markers: ThinkingMarkers, token: int) -> list[int]:
        """Return what is text: not the header of an answer, but the whole one of a tool's call."""
        if self._header is None:
            if token not in markers.header:
                return [token]
            self._header = []
        self._header.append(token)
        if token != markers.start[-1]:
            return []
        header, self._header = self._header, None
        return [] if set(markers.answer[1:-1]).intersection(header) else header
