"""States of fixed size, replaced by each step: `SlotStates` and `PromptStates`.

Mamba, gated delta nets and short convolutions keep such. A state says nothing of the tokens that
it was made from, so only what a model has computed up to a row's own end is of use.

Shapes: B rows, S slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache

from vllm_mlx.batching.slots.memory import Joining, Saved, resize_rows
from vllm_mlx.batching.slots.positions import PromptPositions
from vllm_mlx.batching.slots.rings import Rings

_ArraysCache: Any = ArraysCache


# mlx-lm's Mamba asks whether it is one.
class _Arrays(_ArraysCache):  # type: ignore[misc]
    """What both have in common: `[B, ...]` or `[S, ...]`, None until the model makes them."""

    cache: list[mx.array | None]

    @property
    def arrays(self) -> list[mx.array]:
        return [held for held in self.cache if held is not None]

    @arrays.setter
    def arrays(self, arrays: list[mx.array]) -> None:
        left = iter(arrays)
        self.cache = [None if held is None else next(left) for held in self.cache]

    def advance(self, N: int) -> None:
        """The rings and `PromptPositions` count."""

    def update_recurrent(
        self,
        index: int,
        length: int,  # noqa: ARG002
        update: Callable[..., tuple[mx.array, ...]],
    ) -> tuple[mx.array, mx.array]:
        """Go on by `update(state, steps)`, as mlx-vlm's models do, with no state in between."""
        output, state = update(self.cache[index], None)[:2]
        self.cache[index] = state
        return output, state

    def update_window(
        self, index: int, source: mx.array, width: int, *, lengths: mx.array | None = None
    ) -> mx.array:
        """Keep the last `width` of each row's own tokens in `[B, width + L, ...]`."""
        length = source.shape[1] - width
        if lengths is None:
            kept = mx.contiguous(source[:, length:])
        else:
            places = mx.clip(lengths, 0, length)[:, None] + mx.arange(width)
            shape = *places.shape, *[1] * (source.ndim - 2)
            kept = mx.take_along_axis(source, places.reshape(shape), axis=1)
        self.cache[index] = kept
        return kept


class SlotStates(_Arrays):
    """One layer's states `[S, ...]`; a sequence that joins copies its row."""

    def __init__(self, size: int, rings: Rings) -> None:
        super().__init__(size)
        self.rings = rings

    @property
    def offset(self) -> mx.array:
        return self.rings.positions

    def make_mask(self, N: int) -> None:
        """Each slot goes on by a token of its own."""

    def join(self, joining: Joining, prompt: PromptStates) -> None:
        for at, rows in enumerate(prompt.cache):
            held = self.cache[at]
            if rows is None:  # no prompt of more than one token
                if held is not None:
                    held[joining.index] = 0
                continue
            if held is None:
                self.cache[at] = held = mx.zeros((self.rings.slots, *rows.shape[1:]), rows.dtype)
            held[joining.index] = joining.pick(rows)

    def clear(self, slot: int) -> None:
        for held in self.arrays:
            held[slot : slot + 1] = 0

    def resize(self, rings: Rings, moves: dict[int, int]) -> None:
        if rings.slots != self.rings.slots:
            self.cache = [
                None if held is None else resize_rows(held, moves, rings.slots)
                for held in self.cache
            ]
            mx.eval(self.arrays)
        self.rings = rings


class PromptStates(_Arrays):
    """One layer's states of prompts in prefill, `[B, ...]`.

    Args:
        prefix: what the rows go on from.
    """

    def __init__(self, size: int, positions: PromptPositions, prefix: Saved = ()) -> None:
        self.cache = list(prefix) or [None] * size
        self.left_padding = None
        self._positions = positions

    @property
    def lengths(self) -> mx.array | None:
        """Tokens of the piece that are each row's own; see `PromptPositions`."""
        return self._positions.lengths

    @property
    def offset(self) -> int:
        return self._positions.offset

    def make_mask(self, N: int) -> mx.array | None:
        return self._positions.own_tokens(N)

    def saved(self, row: int, start: int, stop: int) -> Saved:  # noqa: ARG002
        return tuple(
            None if held is None else mx.contiguous(held[row : row + 1]) for held in self.cache
        )
