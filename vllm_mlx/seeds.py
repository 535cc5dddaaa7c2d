"""Seeds: one of its own for every row and every sample, the same when a shard is run again."""

from __future__ import annotations

import hashlib


def row_seed(base: str, row: int) -> int:
    """Return the seed of a row that brings none; `base` is the run's seed, or else its id."""
    return _digest(f"{base}:{row}")


def sample_seed(seed: int, sample_index: int) -> int:
    """Return the seed of one sample of a row with this seed; the first sample has the row's own."""
    return _digest(f"{seed}:sample {sample_index}") if sample_index else seed


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
