"""`KVBudget`: admission by bytes.

What the rings need at most is known when a sequence asks to join: every slot has as many columns as
the longest admitted sequence may need in the end.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.layout import Footprint
from vllm_mlx.batching.slots.ring import columns_for, width_for

PREFILL_SHARE = 1 / 8
"""This part is for prompts in prefill, beside the longest of them."""
PREFIX_SHARE = 1 / 4
"""At most this part is for shared prefixes."""


class Need(NamedTuple):
    """What a sequence needs at most: columns of the ring, none if it never enters it, and tokens
    while it is in prefill."""

    columns: int
    prompt_tokens: int

    @classmethod
    def of(cls, sequence: Sequence) -> Need:
        prompt_tokens = len(sequence.prompt_tokens)
        if not sequence.max_tokens:
            return cls(0, prompt_tokens)
        return cls(columns_for(prompt_tokens + sequence.max_tokens), prompt_tokens)


@dataclass(frozen=True, slots=True)
class KVBudget:
    """What fits into `total_bytes`.

    Attributes:
        footprint: what one sequence takes.
        max_num_seqs: most slots of the rings.
        tile: see `width_for`.
        in_place: prompts are computed where they stay, and share nothing.
    """

    total_bytes: int
    footprint: Footprint
    max_num_seqs: int
    tile: int | None = None
    in_place: bool = False

    def width(self, sequences: int) -> int:
        """Slots of the rings for so many sequences."""
        return width_for(sequences, self.max_num_seqs, self.tile)

    @property
    def prefill_bytes(self) -> int:
        """Most bytes that prompts computed together may hold, if they are more than one."""
        return 0 if self.in_place else int(self.total_bytes * PREFILL_SHARE)

    @property
    def prefix_bytes(self) -> int:
        """Most bytes of shared prefixes."""
        return 0 if self.in_place else int(self.total_bytes * PREFIX_SHARE)

    def _prompt(self, tokens: int) -> int:
        """Bytes of a prompt in prefill, beside its slot."""
        return 0 if self.in_place else self.footprint.prompt(tokens)

    def admits(self, needs: Collection[Need], slots: int, columns: int) -> bool:
        """Whether sequences of these needs may run together.

        Args:
            slots, columns: of the rings as they are; they will not be smaller.
        """
        width = max(slots, self.width(sum(need.columns > 0 for need in needs)))
        rings = width * self.footprint.slot(max(columns, max(need.columns for need in needs)))
        prefilling = self._prompt(max(need.prompt_tokens for need in needs))
        return rings + self.prefix_bytes + self.prefill_bytes + prefilling <= self.total_bytes

    def _alone(self, prompt_tokens: int, max_tokens: int) -> int:
        columns = columns_for(prompt_tokens + max_tokens)
        return self.footprint.slot(columns) + self._prompt(prompt_tokens)

    def enough(self, prompt_tokens: int, max_tokens: int) -> int:
        """Return the bytes in which a sequence can run alone: its shares grow with them."""
        shares = 0 if self.in_place else PREFIX_SHARE + PREFILL_SHARE
        return math.ceil(self._alone(prompt_tokens, max_tokens) / (1 - shares))

    def refusal(self, prompt_tokens: int, max_tokens: int) -> str | None:
        """Return why a sequence can never run, not even alone; None if it can."""
        alone = self._alone(prompt_tokens, max_tokens)
        if alone + self.prefix_bytes + self.prefill_bytes <= self.total_bytes:
            return None
        enough = self.enough(prompt_tokens, max_tokens)
        fixed = self.footprint.slot(0) + self._prompt(0)
        of_state = f", {fixed:,} of them at any length" if fixed else ""
        return (
            f"{prompt_tokens} prompt tokens and max_tokens={max_tokens} need {enough:,} bytes of "
            f"key-value cache{of_state}; kv_cache_bytes is {self.total_bytes:,}: raise it, lower "
            "max_tokens, or shorten the prompt"
        )
