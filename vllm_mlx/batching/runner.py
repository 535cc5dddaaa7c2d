"""`Runner`: what computes the next token of every running sequence."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import mlx.core as mx

from vllm_mlx.batching.counters import Counters
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.scheduler_config import SchedulerConfig


class Logprobs(NamedTuple):
    """Log-probability of a token, and `(token id, log-probability)` of the likeliest."""

    chosen: float
    top: list[tuple[int, float]]

    @classmethod
    def of(cls, logprobs: mx.array, token: int, count: int) -> Logprobs:
        """From the log-probabilities `[V]` of all tokens; `count` of the likeliest."""
        logprobs = logprobs.astype(mx.float32)
        top: list[tuple[int, float]] = []
        if count:
            likeliest = mx.argsort(-logprobs)[:count]
            ids: Any = likeliest.tolist()
            values: Any = logprobs[likeliest].tolist()
            top = list(zip(ids, values, strict=True))
        chosen: Any = logprobs[token].item()
        return cls(chosen, top)


class Produced(NamedTuple):
    """One new token of a sequence; -1 says that the model's logits were not finite."""

    sequence: Sequence
    token: int
    logprobs: Logprobs | None = None


class PrefillError(Exception):
    """Computing prompts failed; what was decoding goes on.

    Attributes:
        sequences: whose prompts they are; the runner has let go of these.
        reason: what the model raised.
    """

    def __init__(self, sequences: list[Sequence], reason: Exception) -> None:
        super().__init__(f"the prefill of {len(sequences)} sequences failed: {reason}")
        self.sequences = sequences
        self.reason = reason


class Runner(Protocol):
    """The model's side of the scheduler. All calls come from one thread.

    Attributes:
        config: the bounds it works within, none of them None.
        counters: what it has done.
    """

    config: SchedulerConfig
    counters: Counters

    def refusal(self, prompt_tokens: int, max_tokens: int) -> str | None:
        """Why a sequence of this size can never run; None if it can. Safe on any thread."""

    def announce(self, sequence: Sequence) -> None:
        """A sequence waits; the runner may look what it shares with others."""

    def withdraw(self, sequence: Sequence) -> None:
        """It waits no more and will not be inserted."""

    def affinity(self, sequence: Sequence) -> int:
        """Equal for waiting sequences that should run near each other; 0 if there are none."""

    def admits(self, sequence: Sequence) -> bool:
        """Whether there is room for it beside what runs."""

    def reserve(self, sequence: Sequence) -> None:
        """It is admitted: count it as running from now on."""

    def insert(self, sequences: list[Sequence]) -> None:
        """Start computing these, which were admitted one by one."""

    def remove(self, sequence: Sequence) -> None:
        """Free its place; nothing happens if it is not running."""

    def step(self) -> list[Produced]:
        """Compute: at most one new token for each running sequence.

        Raises:
            PrefillError: only these prompts failed; after any other error all has to be restarted.
        """

    def close(self) -> None:
        """Forget all running sequences and free their memory."""

    @property
    def slots(self) -> int:
        """Places in the batch at its present width."""

    @property
    def kv_cache_bytes(self) -> int:
        """Memory that key-value caches take now."""
