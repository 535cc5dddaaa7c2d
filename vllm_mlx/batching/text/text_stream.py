"""`TextStream`: tokens in, text out, stop strings found and trimmed on the way."""

from __future__ import annotations

from typing import Protocol

REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are no character (yet)


class Detokenizer(Protocol):
    """Turns the tokens of one sequence into text."""

    def add(self, token: int) -> str:
        """Return the text that is certain with this token."""

    def finish(self) -> str:
        """Return what was held back."""


class TextStream:
    """Incremental text of one sequence.

    Stop strings are looked for in the text, so they match across token boundaries. `take()` hands
    out only what can't become part of a stop string any more.
    """

    def __init__(self, detokenizer: Detokenizer, stop: tuple[str, ...] | None) -> None:
        self._detokenizer = detokenizer
        self._taken = 0
        self._finished = False
        self._trims = False
        self.text = ""
        self.stop_at(stop)

    def stop_at(self, stop: tuple[str, ...] | None) -> None:
        """Look for these strings in the text that comes from now on."""
        self._stop = stop or ()
        self._stop_from = len(self.text)
        self._longest = max(map(len, self._stop), default=0)

    def push(self, token: int) -> bool:
        """Add one token; True when a stop string is complete, which ends the text before it."""
        return self._extend(self._detokenizer.add(token))

    def finish(self) -> bool:
        """Return what was held back; a character cut in half by the end is dropped.

        True when the flushed text completes a stop string.
        """
        if self._finished:  # a stop string has cut the text: what is held back lies behind it
            return False
        self._finished = True
        return self._extend(self._detokenizer.finish().rstrip(REPLACEMENT))

    def trim(self) -> None:
        """Leave out white space until there is something else, if there is no text yet."""
        self._trims = not self.text

    def write(self, text: str) -> None:
        """Add text that no token stands for."""
        self._extend(text)

    def take(self) -> str:
        """Return the text that is certain and was not taken before."""
        end = len(self.text) if self._finished else len(self.text) - self._held_back()
        piece, self._taken = self.text[self._taken : end], max(self._taken, end)
        return piece

    def _extend(self, segment: str) -> bool:
        if self._trims:
            segment = segment.lstrip()
            self._trims = not segment
        if not segment:
            return False
        # A match must touch the new text: look back one character less than the longest stop.
        start = max(self._stop_from, len(self.text) - self._longest + 1)
        self.text += segment
        found = [at for stop in self._stop if (at := self.text.find(stop, start)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self._finished = True
        return bool(found)

    def _held_back(self) -> int:
        """Return the length of the longest tail that a stop string starts with."""
        for size in range(min(self._longest - 1, len(self.text)), 0, -1):
            tail = self.text[-size:]
            if any(stop.startswith(tail) for stop in self._stop):
                return size
        return 0
