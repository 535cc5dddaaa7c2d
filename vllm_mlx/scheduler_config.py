"""`SchedulerConfig`: how much an engine takes on at once. Needs no MLX."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_mlx.errors import InvalidRequestError

WINDOW = 4
"""Waiting sequences are put into a better order `WINDOW * max_num_seqs` at a time. The next ones
are looked at when all of these have been admitted, so none waits longer than that."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a batch, each of them settled; see `SchedulerConfig`."""

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_cache_bytes: int


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Bounds of a batch; None takes what `vllm_mlx.platform` says of the backend.

    Attributes:
        max_num_seqs: most sequences side by side (≥ 1).
        max_num_batched_tokens: most prompt tokens, padding included, that are computed between
            two decode steps (≥ 1): decoding sequences never wait longer.
        kv_cache_bytes: most memory for key-value caches (≥ 1): those of the batch, of shared
            prefixes and of prompts in prefill together.

    Raises:
        InvalidRequestError: a value is no positive integer.
    """

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_cache_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise InvalidRequestError(f"{name}={value!r}: should be at least 1")
