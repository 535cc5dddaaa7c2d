"""The two key-value caches that a model sees: of the running slots, and of prompts in prefill.

Both speak mlx-lm's cache protocol (`offset`, `make_mask`, `update_and_fetch`).
Shapes: B rows, H key-value heads, L new tokens, D head dimension, S slots, C columns.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from vllm_mlx.batching.slots.ring import SlotRing

KeysAndValues = tuple[mx.array, mx.array]


class SlotKVCache:
    """One layer's keys and values `[S, H, C, D]` in a ring that all layers share.

    The decode step writes one column in place. A sequence that joins copies its own tokens and
    nothing else; one that leaves copies nothing.
    """

    def __init__(self, ring: SlotRing) -> None:
        self.ring = ring
        self._kv: KeysAndValues | None = None

    @property
    def offset(self) -> mx.array:
        return self.ring.positions

    def make_mask(self, N: int, *, return_array: bool = False, window_size: Any = None) -> mx.array:
        _refuse_window(window_size)
        return self.ring.mask

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> KeysAndValues:
        """Write the step's `[S, H, 1, D]` and return all columns."""
        column = self.ring.column
        held_keys, held_values = self._held(keys, values)
        held_keys[:, :, column : column + 1] = keys
        held_values[:, :, column : column + 1] = values
        return held_keys, held_values

    def join(self, slots: mx.array, columns: mx.array, keys: mx.array, values: mx.array) -> None:
        """Give slots the tokens of joining rows, all at once.

        Args:
            slots: `[B]`; row b of the others is for slot `slots[b]`.
            columns: where its tokens go, `[B, n]`; see `SlotRing.columns_behind`.
            keys, values: `[B, H, n, D]`.
        """
        for held, new in zip(self._held(keys, values), (keys, values), strict=True):
            held[slots[:, None], :, columns] = new.swapaxes(1, 2)

    def join_run(self, slots: range, length: int, keys: mx.array, values: mx.array) -> None:
        """Give neighbouring slots the first `length` of the tokens `[B, H, n, D]`, by slices."""
        taken = 0
        for start, stop in self.ring.spans(length):
            part = slice(taken, taken := taken + stop - start)
            for held, new in zip(self._held(keys, values), (keys, values), strict=True):
                held[slots.start : slots.stop, :, start:stop] = new[:, :, part]

    def clear(self, slot: int) -> None:
        """Overwrite a slot with zeros: what is masked must still be finite."""
        for held in self._kv or ():
            held[slot : slot + 1] = 0

    def resize(self, ring: SlotRing, moves: dict[int, int]) -> None:
        """Move to another ring; see `SlotRing.resized`."""
        pieces = self.ring.pieces(ring)
        if self._kv:
            keys, values = self._kv
            self._kv = _resized(keys, ring, moves, pieces), _resized(values, ring, moves, pieces)
            mx.eval(self._kv)  # layer by layer: only one is held twice
        self.ring = ring

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._kv or ())

    def _held(self, keys: mx.array, values: mx.array) -> KeysAndValues:
        """Return the arrays, which are made like the first keys and values that come."""
        if self._kv is None:
            S, C = self.ring.slots, self.ring.columns
            self._kv = (
                mx.zeros((S, keys.shape[1], C, keys.shape[3]), keys.dtype),
                mx.zeros((S, values.shape[1], C, values.shape[3]), values.dtype),
            )
        return self._kv


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


def resize_rows(array: mx.array, moves: dict[int, int], width: int) -> mx.array:
    """Return `[S, ...]` cut to `[width, ...]` with rows moved there, or filled up with zeros."""
    if width > array.shape[0]:
        # Zeros, not copies: what is masked must be finite.
        filler = mx.zeros((width - array.shape[0], *array.shape[1:]), array.dtype)
        return mx.concatenate([array, filler])
    rows = list(range(width))
    for old, new in moves.items():
        rows[new] = old
    return mx.take(array, mx.array(rows), axis=0)


class PromptKVCache:
    """One layer's keys and values of prompts in prefill, right-padded to `[B, H, columns, D]`.

    Args:
        columns: tokens that the rows will have in the end, shared prefix and padding included.
        prefix: keys and values `[B, H, p, D]` that are there already.
    """

    def __init__(self, columns: int, prefix: KeysAndValues | None = None) -> None:
        self._columns = columns
        self._prefix = prefix
        self.offset = prefix[0].shape[2] if prefix else 0
        self._kv: KeysAndValues | None = None

    def make_mask(self, N: int, *, return_array: bool = False, window_size: Any = None) -> Any:
        _refuse_window(window_size)
        if return_array:
            return mx.arange(self.offset, self.offset + N)[:, None] >= mx.arange(self.offset + N)
        return "causal" if N > 1 else None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> KeysAndValues:
        held_keys, held_values = self._kv or (None, None)
        self._kv = self._extend(held_keys, keys, 0), self._extend(held_values, values, 1)
        self.offset += keys.shape[2]
        return self.state

    @property
    def state(self) -> KeysAndValues:
        """The tokens so far: keys and values `[B, H, offset, D]`."""
        if self._kv is None:
            assert self._prefix is not None
            return self._prefix
        keys, values = self._kv
        return keys[:, :, : self.offset], values[:, :, : self.offset]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._kv or ())

    def _extend(self, held: mx.array | None, new: mx.array, which: int) -> mx.array:
        B, H, L, D = new.shape
        if held is None:
            if self._prefix is None and self._columns == L:
                return new  # the whole prompt at once: nothing to copy
            held = mx.zeros((B, H, self._columns, D), new.dtype)
            if self._prefix:
                held[:, :, : self.offset] = self._prefix[which]
        held[:, :, self.offset : self.offset + L] = new
        return held


def _refuse_window(window_size: Any) -> None:
    if window_size is not None:
        raise NotImplementedError("slots keep all tokens: no sliding window")
