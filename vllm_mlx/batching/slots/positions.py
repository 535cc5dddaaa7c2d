"""`PromptPositions`: where the tokens of a piece of prefill stand, and what they see."""

from __future__ import annotations

import mlx.core as mx

Mask = mx.array | str | None
"""As attention takes it: bool `[L, K]`, "causal", or None for a single token that sees all."""


class PromptPositions:
    """The tokens `[start:stop]` of rows that are padded at the right.

    A token never sees what is right of it, so padding changes nothing for attention. A state would
    go on over padding, so layers with one are told how many tokens of each row are its own.

    Args:
        start: tokens of each row's shared prefix.

    Attributes:
        offset: tokens before the piece.
        lengths: tokens of the piece that are each row's own, int32 `[B]`, at most 0 if none; None
            if nothing is padding.
    """

    def __init__(self, start: int) -> None:
        self.offset = self.start = start
        self.lengths: mx.array | None = None
        self._masks: dict[tuple[int, int | None, int], mx.array] = {}
        self._own: mx.array | None = None

    def move_to(self, offset: int, lengths: list[int] | None) -> None:
        """Begin another piece."""
        self.offset = offset
        self.lengths = None if lengths is None else mx.array(lengths, dtype=mx.int32)
        self._masks.clear()
        self._own = None

    def mask(self, length: int, window: int | None, base: int, return_array: bool = False) -> Mask:
        """What tokens of the piece see of the columns from `base` on."""
        reaches = window is None or self.offset + length <= window
        if reaches and not return_array:
            return "causal" if length > 1 else None
        key = length, window, base
        if key not in self._masks:
            self._masks[key] = self._seen(*key)
        return self._masks[key]

    def is_mask(self, mask: mx.array, length: int, window: int | None, base: int) -> bool:
        """Whether `mask` is the one that `mask()` gave for these."""
        return self._masks.get((length, window, base)) is mask

    def own_tokens(self, length: int) -> mx.array | None:
        """Which tokens of the piece are no padding, bool `[B, length]`; None if all."""
        if self.lengths is None:
            return None
        if self._own is None or self._own.shape[1] != length:
            self._own = mx.arange(length) < self.lengths[:, None]
        return self._own

    def _seen(self, length: int, window: int | None, base: int) -> mx.array:
        stop = self.offset + length
        queries = mx.arange(self.offset, stop)[:, None]
        keys = mx.arange(base, stop)
        seen = queries >= keys
        return seen if window is None else seen & (queries < keys + window)
