"""`SlotMemory` and `PromptMemory`: what one layer remembers of sequences, and how they join.

A layer of a model keeps keys and values of all tokens or of the last few, a state of fixed size, or
several of these (see `layout`). Each kind has a form for running sequences, a row a slot, and one
for prompts in prefill, a row a prompt. Both speak the cache protocol of mlx-lm's models.

Shapes: B rows of a prefill, S slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import mlx.core as mx

from vllm_mlx.batching.slots.rings import Rings

Saved = tuple[mx.array | None, ...]
"""What a layer remembers of one prefix, `[1, ...]` each; None what its model has not made."""


@dataclass(eq=False)
class Joining:
    """Rows of a prefill that go on in slots.

    Attributes:
        rows: their places in the prefill.
        slots: where each goes.
        lengths: tokens that are computed of each.
    """

    rows: list[int]
    slots: list[int]
    lengths: list[int]

    @cached_property
    def index(self) -> mx.array:
        """`slots` as an array."""
        return mx.array(self.slots)

    def pick(self, array: mx.array) -> mx.array:
        """Return the rows of `[B, ...]` that join."""
        if self.rows == list(range(array.shape[0])):
            return array
        return mx.take(array, mx.array(self.rows), axis=0)


class PromptMemory(Protocol):
    """What one layer remembers of prompts in prefill, a row each."""

    @property
    def arrays(self) -> list[mx.array]:
        """All that is computed so far, `[B, ...]` each."""

    @property
    def nbytes(self) -> int:
        """Bytes that it holds; safe on any thread."""

    def saved(self, row: int, start: int, stop: int) -> Saved:
        """Return what there is to keep of the tokens `[start:stop]` of a row."""


class SlotMemory(Protocol):
    """What one layer remembers of the running sequences, a row a slot.

    Attributes:
        rings: where the slots stand.
        arrays: all that is held, `[S, ...]` each; none before the first sequence.
    """

    rings: Rings
    arrays: list[mx.array]

    @property
    def nbytes(self) -> int:
        """Bytes that it holds; safe on any thread."""

    def join(self, joining: Joining, prompt: Any) -> None:
        """Copy rows of a `PromptMemory` of the same kind into slots."""

    def clear(self, slot: int) -> None:
        """Overwrite a slot with zeros: what is masked must still be finite."""

    def resize(self, rings: Rings, moves: dict[int, int]) -> None:
        """Move to other rings; see `Rings.resized`."""


def join_all(
    memories: Sequence[SlotMemory], joining: Joining, prompts: Sequence[PromptMemory]
) -> None:
    """Copy rows of a prefill into slots, in all layers."""
    for memory, prompt in zip(memories, prompts, strict=True):
        memory.join(joining, prompt)


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
