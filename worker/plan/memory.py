"""`Memory`: what weights and key-value caches take, and how many rows fit side by side."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.slots.budget import KVBudget, Need
from vllm_mlx.batching.slots.ring import columns_for
from worker.plan.shares import Planned


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, and rows that they suffice for.

    Attributes:
        kv_cache: most that key-value caches may take.
        longest: tokens of the longest row, prompt and answer together.
        row: bytes of such a row in its slot; None where the model does not tell.
        slots: rows of that length that fit side by side.
        max_num_seqs: most rows side by side, whatever their length.
    """

    weights: int
    kv_cache: int
    longest: int
    row: int | None
    slots: int
    max_num_seqs: int

    @classmethod
    def of(cls, core: EngineCore, planned: list[Planned], weights: int) -> Memory:
        bounds, budget = core.runner.bounds, core.runner.budget
        longest = max((each.tokens + each.most for each in planned), default=0)
        prompt = max((each.tokens for each in planned), default=0)
        most, row = bounds.max_num_seqs, None
        if budget and planned:
            row = budget.footprint.slot(columns_for(longest))
            most = _slots(budget, Need(columns_for(longest), prompt))
        return cls(weights, bounds.kv_cache_bytes, longest, row, most, bounds.max_num_seqs)

    @property
    def width(self) -> int:
        """Rows side by side that a run may count on."""
        return max(1, min(self.slots, self.max_num_seqs))


def _slots(budget: KVBudget, need: Need) -> int:
    """Return how many rows of one need may run together."""
    fitting = 0
    for rows in range(1, budget.max_num_seqs + 1):
        if not budget.admits([need] * rows, 0, 0):
            break
        fitting = rows
    return fitting
