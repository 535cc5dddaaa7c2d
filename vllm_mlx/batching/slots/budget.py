"""`KVBudget`: admission by bytes.

Counted in tokens of key-value cache. What a ring needs at most is known when a sequence asks to
join: every slot has as many columns as the longest admitted sequence may need in the end.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.ring import columns_for, width_for

PREFILL_SHARE = 8
"""One part in so many is for prompts in prefill, beside the longest of them."""
PREFIX_SHARE = 4
"""At most one part in so many is for shared prefixes."""


class Need(NamedTuple):
    """What a sequence needs at most: columns of the ring, and tokens while it is in prefill."""

    columns: int
    prompt_tokens: int

    @classmethod
    def of(cls, sequence: Sequence) -> Need:
        prompt_tokens = len(sequence.prompt_tokens)
        return cls(columns_for(prompt_tokens + sequence.max_tokens), prompt_tokens)


@dataclass(frozen=True, slots=True)
class KVBudget:
    """What fits into `total_bytes`.

    Attributes:
        bytes_per_token: keys and values of one token in all layers.
        max_num_seqs: most slots of the ring.
    """

    total_bytes: int
    bytes_per_token: int
    max_num_seqs: int

    @property
    def tokens(self) -> int:
        return self.total_bytes // self.bytes_per_token

    @property
    def prefill_tokens(self) -> int:
        """Most tokens that prompts computed together may hold, if they are more than one."""
        return self.tokens // PREFILL_SHARE

    @property
    def prefix_tokens(self) -> int:
        """Most tokens of shared prefixes."""
        return self.tokens // PREFIX_SHARE

    def admits(self, needs: Collection[Need], slots: int, columns: int) -> bool:
        """Whether sequences of these needs may run together.

        Args:
            slots, columns: of the ring as it is; it will not be smaller.
        """
        width = max(slots, width_for(len(needs), self.max_num_seqs))
        ring = width * max(columns, max(need.columns for need in needs))
        prefilling = self.prefill_tokens + max(need.prompt_tokens for need in needs)
        return ring + self.prefix_tokens + prefilling <= self.tokens

    def refusal(self, prompt_tokens: int, max_tokens: int) -> str | None:
        """Return why a sequence can never run, not even alone; None if it can."""
        alone = columns_for(prompt_tokens + max_tokens) + prompt_tokens
        if alone + self.prefix_tokens + self.prefill_tokens <= self.tokens:
            return None
        # The shares grow with the budget: this much is enough, shares and all.
        enough = math.ceil(alone / (1 - 1 / PREFIX_SHARE - 1 / PREFILL_SHARE))
        return (
            f"{prompt_tokens} prompt tokens and max_tokens={max_tokens} need "
            f"{enough * self.bytes_per_token:,} bytes of key-value cache; kv_cache_bytes is "
            f"{self.total_bytes:,}: raise it, lower max_tokens, or shorten the prompt"
        )
