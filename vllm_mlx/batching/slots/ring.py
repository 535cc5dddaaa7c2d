"""`SlotRing`: which columns of a key-value cache belong to which slot.

All slots write their next token in the same column, `step mod columns`, so a step is one slice
assignment a layer, whichever slots run. A slot that holds `n` tokens owns the `n` columns behind
the present one. Keys are stored after RoPE, so their order in memory does not matter to attention.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise

import mlx.core as mx

COLUMN_STEP = 256
"""Columns come in multiples of this: few distinct shapes, and growth is rare."""
WINDOW_STEP = 16
"""Those of a window come in multiples of this: they do not grow beyond it."""


class SlotRing:
    """The host's side of a ring of `slots` x `columns`; the layers' caches hold the arrays.

    Args:
        window: tokens that a slot sees at most, the newest among them; None if all.

    Attributes:
        step: decode steps so far; `step mod columns` is the column written next.
        lengths: tokens that each slot sees, the one about to be written not counted; 0 when free.
    """

    def __init__(self, slots: int, columns: int, window: int | None = None, step: int = 0) -> None:
        self.slots = slots
        self.columns = columns
        self.window = window
        self.step = step
        self.lengths = [0] * slots
        self._most = sys.maxsize if window is None else window - 1
        self._forget_arrays()

    def _forget_arrays(self) -> None:
        for name in ("offsets", "ages", "mask", "added_mask", "newest"):
            self.__dict__.pop(name, None)
        self._narrower: dict[int, mx.array] = {}
        self._by_head: dict[int, mx.array] = {}
        self._blocks: list[tuple[slice, list[slice]]] = []

    @property
    def column(self) -> int:
        return self.step % self.columns

    @cached_property
    def offsets(self) -> mx.array:
        """`lengths` as int32 `[S]`."""
        return mx.array(self.lengths, dtype=mx.int32)

    @cached_property
    def mask(self) -> mx.array:
        """Which columns each slot may see in this step, bool `[S, 1, 1, C]`.

        A free slot sees the column it writes itself, so that no softmax is empty.
        """
        return (self.ages <= self.offsets[:, None])[:, None, None, :]

    @cached_property
    def ages(self) -> mx.array:
        """Steps since each column was written, this one 0, int32 `[1, C]`."""
        return ((self.newest - mx.arange(self.columns, dtype=mx.int32)) % self.columns)[None]

    def mask_within(self, window: int | None) -> mx.array:
        """Return the mask of a layer that asks to see no more than `window` tokens."""
        if window is None or (self.window is not None and self.window <= window):
            return self.mask
        if window not in self._narrower:
            self._narrower[window] = self.mask & (self.ages < window)
        return self._narrower[window]

    def mask_of_heads(self, heads: int) -> mx.array:
        """Return the mask with a copy for each head, bool `[S, heads, 1, C]`."""
        if heads not in self._by_head:
            S, _, L, C = self.mask.shape
            self._by_head[heads] = mx.contiguous(mx.broadcast_to(self.mask, (S, heads, L, C)))
        return self._by_head[heads]

    @cached_property
    def added_mask(self) -> mx.array:
        """The mask as 0 or -1e9 to be added to scores, float32 `[S, 1, 1, C]`."""
        return mx.logical_not(self.mask) * mx.array(-1e9)

    @cached_property
    def newest(self) -> mx.array:
        """`column` as int32 `[1]`."""
        return mx.array([self.column], dtype=mx.int32)

    def write(self, held: mx.array, new: mx.array) -> mx.array:
        """Return `[S, H, C, D]` with the step's `[S, H, 1, D]` in its column."""
        held[:, :, self.column : self.column + 1] = new
        return held

    def blocks(self, size: int) -> list[tuple[slice, list[slice]]]:
        """Return neighbouring slots, up to `size`, with the columns that hold all their tokens.

        The column of the step is among them; they are one slice, or two around the ring's end.
        """
        if not self._blocks:
            for first in range(0, self.slots, size):
                slots = slice(first, min(first + size, self.slots))
                held = min(max(self.lengths[slots]) + 1, self.columns)
                spans = self._spans(self.step + 1, held)
                self._blocks.append((slots, [slice(*span) for span in spans]))
        return self._blocks

    def occupy(self, slot: int, length: int) -> None:
        self.lengths[slot] = min(length, self._most)
        self._forget_arrays()

    def advance(self, occupied: Iterable[int]) -> None:
        """Count a launched step: its tokens now belong to the slots that are `occupied`."""
        self.step += 1
        for slot in occupied:
            self.lengths[slot] = min(self.lengths[slot] + 1, self._most)
        self._forget_arrays()

    def spans(self, length: int) -> list[tuple[int, int]]:
        """Return the `length` columns before the present one, in order: one or two `[from, to)`."""
        return self._spans(self.step, length)

    def _spans(self, step: int, length: int) -> list[tuple[int, int]]:
        first = (step - length) % self.columns
        if first + length <= self.columns:
            return [(first, first + length)]
        return [(first, self.columns), (0, length - (self.columns - first))]

    def columns_behind(self, lengths: list[int], padded: int) -> mx.array:
        """Return columns of rows whose `lengths[b]` tokens end at the present one: `[B, padded]`.

        What pads a row goes into the columns that come after, which no slot sees before they are
        written anew.
        """
        first = mx.array([self.step - length for length in lengths], dtype=mx.int32)
        return (first[:, None] + mx.arange(padded, dtype=mx.int32)) % self.columns

    def resized(self, moves: dict[int, int], slots: int, columns: int) -> SlotRing:
        """Return a ring of other size at the same step; see `Rings.resized`."""
        ring = SlotRing(slots, columns, self.window, self.step)
        ring.lengths = moved(self.lengths, moves, slots)
        return ring

    def pieces(self, ring: SlotRing) -> list[tuple[int, int, int]]:
        """Return how the columns in use move to another ring: `(from, to, count)` each."""
        length = min(max(self.lengths), self.columns, ring.columns)
        cuts = {0, length}
        for spans in (self.spans(length), ring.spans(length)):
            cuts.add(spans[0][1] - spans[0][0])
        edges = sorted(cuts)
        first, other = self.step - length, ring.step - length
        return [
            ((first + start) % self.columns, (other + start) % ring.columns, stop - start)
            for start, stop in pairwise(edges)
        ]


class FollowedRing(SlotRing):
    """A ring in a step that is compiled: its numbers are arrays, other ones in each step.

    What only the host knows it does not have: to ask for it is an AttributeError.
    """

    def __init__(self, ring: SlotRing, offsets: mx.array, newest: mx.array) -> None:
        self.slots, self.columns, self.window = ring.slots, ring.columns, ring.window
        self._forget_arrays()
        self.__dict__.update(offsets=offsets, newest=newest)

    def write(self, held: mx.array, new: mx.array) -> mx.array:
        # Not `mx.slice_update`, which on CUDA copies all of what is held for a start that is an
        # array.
        column = mx.broadcast_to(self.newest.reshape(1, 1, 1, 1), new.shape)
        return mx.put_along_axis(held, column, new, axis=2)


def moved(values: list[int], moves: dict[int, int], slots: int) -> list[int]:
    """Return what each slot has after a resize, 0 for new ones."""
    kept = values[:slots] + [0] * (slots - len(values))
    for old, new in moves.items():
        kept[new] = values[old]
    return kept


def window_columns(window: int | None, columns: int) -> int:
    """Return the columns of a window's ring beside one of `columns` that sees all tokens."""
    if window is None:
        return columns
    return min(columns, -(-window // WINDOW_STEP) * WINDOW_STEP)


def columns_for(tokens: int) -> int:
    """Return the columns that a row of so many tokens needs."""
    return -(-tokens // COLUMN_STEP) * COLUMN_STEP


def width_for(sequences: int, most: int, tile: int | None = None) -> int:
    """Return slots for so many sequences, at most `most`.

    Few widths mean few shapes: powers of two and their three quarters, each at most a half more
    than the one before it. If a step computes rows in tiles, then above a quarter of one they are
    a half and whole ones: all rows of a tile cost the same.
    """
    if tile is not None and sequences > tile // 4:
        half = tile // 2
        return min(half if sequences <= half else -(-sequences // tile) * tile, most)
    width = 1
    while width < sequences:
        width = width * 4 // 3 if width & (width - 1) else max(width + 1, width * 3 // 2)
    return min(width, most)
