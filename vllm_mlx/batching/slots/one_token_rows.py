"""`OneTokenRows`: rows whose answer begins with what prefill finds to follow their one token.

Some models that remember a state tell the first token of all from others, by there being none yet.
A decode step can't tell them: each slot holds a state, if only of zeros. So prefill computes a
prompt of one token whole, and its row joins after a step that has gone on from nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx

from vllm_mlx.batching.sequence import Sequence as Row
from vllm_mlx.batching.slots.memory import Joining, SlotMemory, join_all
from vllm_mlx.batching.slots.prefill import PrefillBatch


class OneTokenRows:
    """Those that have a slot, until a step is launched."""

    def __init__(self) -> None:
        self._rows: dict[PrefillBatch, list[tuple[int, Row]]] = {}

    def add(self, batch: PrefillBatch, rows: list[tuple[int, Row]]) -> None:
        """Wait for the next step with rows of a prefill, each with its place there."""
        self._rows[batch] = rows

    def finish(
        self, logits: mx.array, memories: Sequence[SlotMemory], slot_of: Mapping[Row, int]
    ) -> None:
        """Put what prefill found over what a step has made of these rows, but for those that left.

        Args:
            logits: of the step, `[S, V]`; the rings have counted it.
        """
        for batch, rows in self._rows.items():
            held = [(place, slot_of[row]) for place, row in rows if row in slot_of]
            if held and batch.logits is not None:
                places, slots = map(list, zip(*held, strict=True))
                joining = Joining(places, slots, [1] * len(held))
                logits[joining.index] = joining.pick(batch.logits)
                join_all(memories, joining, batch.memories)
        self._rows.clear()
