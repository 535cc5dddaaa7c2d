"""Keys and values of all tokens, or of the last few: `SlotKVCache` and `PromptKVCache`.

Shapes: B rows, H key-value heads, L new tokens, n tokens of a prefill, D head dimension, S slots,
C columns.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import mlx.core as mx

from vllm_mlx import platform
from vllm_mlx.batching.slots.memory import Joining, Saved, resize_rows
from vllm_mlx.batching.slots.positions import Mask, PromptPositions
from vllm_mlx.batching.slots.ring import SlotRing
from vllm_mlx.batching.slots.rings import Rings

SCATTERED = 512
"""Rows up to so many tokens join in one scatter a layer: a slice assignment takes 20 us to launch
on CUDA, for each row, but copies many times faster (benchmarks/README.md)."""

KeysAndValues = tuple[mx.array, mx.array]


class SlotKVCache:
    """One layer's keys and values `[S, H, C, D]` in a ring that all layers of its window share.

    The decode step writes one column in place. A sequence that joins copies its own tokens and
    nothing else; one that leaves copies nothing.
    """

    def __init__(self, rings: Rings, window: int | None = None) -> None:
        self._operations = platform.operations()
        self._window = window
        self.rings = rings
        self.arrays: list[mx.array] = []

    @property
    def ring(self) -> SlotRing:
        return self.rings[self._window]

    @property
    def offset(self) -> mx.array:
        return self.rings.positions

    @property
    def _offset(self) -> int:
        """What mlx-vlm asks for where it needs one number for all rows."""
        return self.rings.longest

    def make_mask(
        self,
        N: int,  # noqa: ARG002
        return_array: bool = False,  # noqa: ARG002
        window_size: int | None = None,
    ) -> mx.array:
        return self.ring.mask_within(window_size)

    def is_own_mask(self, mask: Any) -> bool:
        """Whether `mask` says no more than what `attend` knows of each slot."""
        return mask is self.ring.mask

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> KeysAndValues:
        """Write the step's `[S, H, 1, D]` and return all columns."""
        pairs = zip(self._held(keys, values), (keys, values), strict=True)
        self.arrays = [self.ring.write(held, new) for held, new in pairs]
        return self.keys_and_values()

    def keys_and_values(self) -> KeysAndValues:
        """Return all columns, for layers that share those of another one."""
        keys, values = self.arrays
        return keys, values

    @property
    def state(self) -> KeysAndValues:
        """The same, as mlx-vlm's models ask for it."""
        return self.keys_and_values()

    def attend(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        scale: float,
        mask: Any,
        sinks: mx.array | None = None,
    ) -> mx.array:
        """Attention of one query a slot, `[S, Hq, 1, D]`, over the columns that its slot holds.

        Args:
            mask: None for all of these.
        """
        if mask is None or self.is_own_mask(mask):
            return self._operations.attend_slots(queries, keys, values, scale, self.ring, sinks)
        return mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=scale, mask=mask, sinks=sinks
        )

    def join(self, joining: Joining, prompt: PromptKVCache) -> None:
        lengths = [length - prompt.base for length in joining.lengths]
        if max(lengths) <= 0:
            return
        keys, values = (joining.pick(array) for array in prompt.arrays)
        landing = _Landing(self.ring, joining, lengths)
        for held, new in zip(self._held(keys, values), (keys, values), strict=True):
            landing.copy(held, new)

    def clear(self, slot: int) -> None:
        for held in self.arrays:
            held[slot : slot + 1] = 0

    def resize(self, rings: Rings, moves: dict[int, int]) -> None:
        ring = rings[self._window]
        pieces = self.ring.pieces(ring)
        self.arrays = [_resized(held, ring, moves, pieces) for held in self.arrays]
        mx.eval(self.arrays)  # layer by layer: only one is held twice
        self.rings = rings

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def _held(self, keys: mx.array, values: mx.array) -> list[mx.array]:
        """Return the arrays, which are made like the first keys and values that come."""
        if not self.arrays:
            S, C = self.ring.slots, self.ring.columns
            self.arrays = [
                mx.zeros((S, new.shape[1], C, new.shape[3]), new.dtype) for new in (keys, values)
            ]
        return self.arrays


class _Landing:
    """Where rows of a prefill go in a ring: each before the present column, its last token last.

    Args:
        lengths: tokens of each row.
    """

    def __init__(self, ring: SlotRing, joining: Joining, lengths: list[int]) -> None:
        self._longest, most = max(lengths), ring.columns - 1
        self._last: mx.array | None = None
        if self._longest > most:
            # More than a window: the last ones of each row. What a short row has too much is older
            # than what its slot sees.
            first = mx.array(lengths)[:, None] - most
            places = mx.maximum(first + mx.arange(most), 0)
            self._last = places[:, None, :, None]
            self._longest, lengths = most, [most] * len(lengths)
        self._index: mx.array | None = None
        if len(lengths) > 1 and self._longest <= SCATTERED:
            self._index = joining.index[:, None]
            self._columns = ring.columns_behind(lengths, self._longest)
        self._runs = _runs(joining.slots, lengths)
        self._spans = ring.spans

    def copy(self, held: mx.array, new: mx.array) -> None:
        """Copy rows `[B, H, n, D]` into `[S, H, C, D]`."""
        if self._last is not None:
            new = mx.take_along_axis(new, self._last, axis=2)
        if self._index is not None:
            held[self._index, :, self._columns] = new[:, :, : self._longest].swapaxes(1, 2)
            return
        for rows, slots, length in self._runs:
            taken = 0
            for start, stop in self._spans(length):
                part = slice(taken, taken := taken + stop - start)
                held[slots, :, start:stop] = new[rows, :, part]


def _runs(slots: list[int], lengths: list[int]) -> list[tuple[slice, slice, int]]:
    """Return rows of one length for neighbouring slots: `(rows, slots, length)` each."""
    runs = []
    keys = zip(lengths, (slot - row for row, slot in enumerate(slots)), strict=True)
    for (length, shift), run in groupby(enumerate(keys), key=lambda pair: pair[1]):
        rows = [row for row, _ in run]
        first, stop = rows[0], rows[-1] + 1
        runs.append((slice(first, stop), slice(first + shift, stop + shift), length))
    return runs


def _resized(
    array: mx.array, ring: SlotRing, moves: dict[int, int], pieces: list[tuple[int, int, int]]
) -> mx.array:
    if ring.slots != array.shape[0]:
        array = resize_rows(array, moves, ring.slots)
    S, H, C, D = array.shape
    if ring.columns == C:
        return array
    resized = mx.zeros((S, H, ring.columns, D), array.dtype)
    for old, new, count in pieces:
        resized[:, :, new : new + count] = array[:, :, old : old + count]
    return resized


class PromptKVCache:
    """One layer's keys and values of prompts in prefill, right-padded to `[B, H, columns, D]`.

    Args:
        positions: where the tokens stand; all layers share them.
        stop: tokens that the rows will have in the end, shared prefix and padding included.
        prefix: keys and values `[B, H, p, D]` that are there already: of all tokens of the prefix,
            or of its last `window` ones.
        window: tokens that each sees at most, itself among them; None if all.

    Attributes:
        base: tokens before the first that is kept.
    """

    def __init__(
        self,
        positions: PromptPositions,
        stop: int,
        prefix: Saved | None = None,
        window: int | None = None,
    ) -> None:
        self._operations = platform.operations()
        self._positions = positions
        self._window = window
        self._prefix = prefix
        self.base = 0 if window is None else max(0, positions.start - window)
        self._columns = stop - self.base
        self._kv: KeysAndValues | None = None
        self._end = 0

    @property
    def offset(self) -> int:
        return self._positions.offset

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Mask:
        return self._positions.mask(N, window_size or self._window, self.base, return_array)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> KeysAndValues:
        held_keys, held_values = self._kv or (None, None)
        self._kv = self._extend(held_keys, keys, 0), self._extend(held_values, values, 1)
        self._end = self.offset - self.base + keys.shape[2]
        return self.keys_and_values()

    def keys_and_values(self) -> KeysAndValues:
        """Return the tokens so far, those of the piece included."""
        keys, values = self.arrays
        return keys, values

    @property
    def state(self) -> KeysAndValues:
        """The same, as mlx-vlm's models ask for it."""
        return self.keys_and_values()

    def attend(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        scale: float,
        mask: Any,
        sinks: mx.array | None = None,
    ) -> mx.array:
        """Attention of the last L tokens, `[B, Hq, L, D]`, over those before and among them.

        Args:
            mask: None for several tokens that all see each other.
        """
        attend, window = self._operations.attend_causal, self._window
        sees_ahead = mask is None and queries.shape[2] > 1
        if not isinstance(mask, mx.array) and not sees_ahead:
            return attend(queries, keys, values, scale, None, sinks)
        if not sees_ahead and self._positions.is_mask(mask, queries.shape[2], window, self.base):
            return attend(queries, keys, values, scale, window, sinks)
        return mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=scale, mask=mask, sinks=sinks
        )

    @property
    def arrays(self) -> list[mx.array]:
        """The tokens so far: keys and values `[B, H, offset - base, D]`."""
        if self._kv is None:
            return [array for array in self._prefix or () if array is not None]
        return [array[:, :, : self._end] for array in self._kv]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._kv or ())

    def saved(self, row: int, start: int, stop: int) -> Saved:
        first = start if self._window is None else max(start, stop - self._window)
        part = slice(first - self.base, stop - self.base)
        return tuple(mx.contiguous(array[row : row + 1, :, part]) for array in self.arrays)

    def _extend(self, held: mx.array | None, new: mx.array, which: int) -> mx.array:
        B, H, L, D = new.shape
        start = self.offset - self.base
        if held is None:
            if self._prefix is None and self._columns == L:
                return new  # the whole prompt at once: nothing to copy
            held = mx.zeros((B, H, self._columns, D), new.dtype)
            if prefix := self.arrays:
                held[:, :, :start] = prefix[which]
        held[:, :, start : start + L] = new
        return held
