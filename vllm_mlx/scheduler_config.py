"""`SchedulerConfig`: how much an engine takes on at once. Needs no MLX."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ByteSize, Field

from vllm_mlx.parameters import Parameters

WINDOW = 4
"""Waiting sequences are put into a better order `WINDOW * max_num_seqs` at a time. The next ones
are looked at when all of these have been admitted, so none waits longer than that."""

LEAST_TOKENS = 64
"""Prompt tokens computed at once are halved down to this."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a batch, each of them settled; see `SchedulerConfig`."""

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_bytes: int

    def halved(self, rows: int) -> Bounds:
        """Return what is left for a batch in which so many rows were too much."""
        return Bounds(
            max(1, min(self.max_num_seqs, rows) // 2),
            max(min(LEAST_TOKENS, self.max_num_batched_tokens), self.max_num_batched_tokens // 2),
            self.kv_cache_bytes // 2,
        )

    @property
    def is_least(self) -> bool:
        """Whether nothing is left to halve."""
        return self.max_num_seqs == 1 and self.max_num_batched_tokens <= LEAST_TOKENS


class SchedulerConfig(Parameters):
    """Bounds of a batch; None takes the default of the backend (`vllm_mlx.platform`)."""

    max_num_seqs: int | None = Field(default=None, ge=1)
    """Most sequences side by side in the batch."""
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    """Most prompt tokens, padding included, computed between two decode steps."""
    kv_cache_bytes: ByteSize | None = Field(
        default=None, ge=1, json_schema_extra={"type": "size", "minimum": 1}
    )
    """Most memory for key-value caches (batch, shared prefixes and prefill): 8GB, 8GiB."""
