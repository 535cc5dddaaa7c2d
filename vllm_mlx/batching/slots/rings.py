"""`Rings`: the rings of a batch, one for each window of its model's layers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import mlx.core as mx

from vllm_mlx.batching.slots.ring import FollowedRing, SlotRing, moved, window_columns


class Rings:
    """The rings of all layers: one whose slots see all their tokens, and one for each window.

    Args:
        windows: tokens that the layers of a model see, None for all.

    Attributes:
        slots, columns: of the ring whose slots see all tokens.
        lengths: tokens of each slot, the one about to be written not counted; 0 when free.
        rope_deltas: what each slot's position is beyond its length (see `PromptMedia.rope_delta`).
    """

    def __init__(self, windows: Iterable[int | None], slots: int, columns: int) -> None:
        self.rope_deltas = [0] * slots
        self._rings: dict[int | None, SlotRing] = {
            window: SlotRing(slots, window_columns(window, columns), window)
            for window in {None, *windows}
        }

    def __getitem__(self, window: int | None) -> SlotRing:
        return self._rings[window]

    @property
    def slots(self) -> int:
        return self._rings[None].slots

    @property
    def columns(self) -> int:
        return self._rings[None].columns

    @property
    def lengths(self) -> list[int]:
        return self._rings[None].lengths

    @cached_property
    def positions(self) -> mx.array:
        """Positions of the tokens about to be written, int32 `[S]`."""
        offsets = self._rings[None].offsets
        if not any(self.rope_deltas):
            return offsets
        return offsets + mx.array(self.rope_deltas, dtype=mx.int32)

    @property
    def arrays(self) -> list[mx.array]:
        """What a step needs to know of the rings: `followed` takes it."""
        own = [array for ring in self._rings.values() for array in (ring.offsets, ring.newest)]
        return [self.positions, *own]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths)

    def followed(self, arrays: list[mx.array], longest: int) -> FollowedRings:
        """Return rings for a step that is compiled, to which all numbers are arrays."""
        positions, *own = arrays
        pairs = zip(own[::2], own[1::2], strict=True)
        followed: dict[int | None, SlotRing] = {
            window: FollowedRing(ring, *pair)
            for (window, ring), pair in zip(self._rings.items(), pairs, strict=True)
        }
        return FollowedRings(positions, followed, longest)

    def occupy(self, slot: int, length: int, rope_delta: int = 0) -> None:
        self.rope_deltas[slot] = rope_delta
        self.__dict__.pop("positions", None)
        for ring in self._rings.values():
            ring.occupy(slot, length)

    def free(self, slot: int) -> None:
        self.occupy(slot, 0)

    def advance(self, occupied: Iterable[int]) -> None:
        """Count a launched step: its tokens now belong to the slots that are `occupied`."""
        self.__dict__.pop("positions", None)
        for ring in self._rings.values():
            ring.advance(occupied)

    def resized(self, moves: dict[int, int], slots: int, columns: int) -> Rings:
        """Return rings of other size at the same step.

        Args:
            moves: where slots go that can't stay (`{old: new}`); all others keep their place.
            columns: at least the longest length, plus one.
        """
        rings = Rings(self._rings, slots, columns)
        rings.rope_deltas = moved(self.rope_deltas, moves, slots)
        rings._rings = {
            window: ring.resized(moves, slots, window_columns(window, columns))
            for window, ring in self._rings.items()
        }
        return rings


class FollowedRings(Rings):
    """Rings in a step that is compiled.

    Attributes:
        was_asked: whether the step has asked for the number of tokens, of which it is told one
            that may be wrong.
    """

    def __init__(
        self, positions: mx.array, rings: dict[int | None, SlotRing], longest: int
    ) -> None:
        self.__dict__["positions"] = positions
        self._rings = rings
        self._longest = longest
        self.was_asked = False

    @property
    def longest(self) -> int:
        self.was_asked = True
        return self._longest
