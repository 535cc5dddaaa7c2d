"""`Runner`: what computes the next token of every running sequence."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, NamedTuple

import mlx.core as mx

from vllm_mlx import platform
from vllm_mlx.batching.counters import Counters
from vllm_mlx.batching.logits.logprobs import Logprobs
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.budget import KVBudget, Need
from vllm_mlx.batching.slots.prefix import PrefixCache
from vllm_mlx.scheduler_config import Bounds


class Produced(NamedTuple):
    """One new token of a sequence; -1 if the model's logits were not finite, None where its prompt
    is read and no token is asked for."""

    sequence: Sequence
    token: int | None
    logprobs: Logprobs | None = None

    @classmethod
    def of(cls, sequence: Sequence, token: int, chosen: float, logprobs: mx.array) -> Produced:
        """Return the token with the log-probabilities that its sequence asked for.

        Args:
            chosen: the token's log-probability; one logit that is not finite spoils it.
            logprobs: those of all tokens, `[V]`.
        """
        if not math.isfinite(chosen):
            return cls(sequence, -1)
        count = sequence.params.logprobs
        return cls(sequence, token, None if count is None else Logprobs.of(chosen, logprobs, count))


def prompt_read(sequence: Sequence) -> list[Produced]:
    """Return what there is to tell when a prompt is read: its end, or scores beyond numbers."""
    if sequence.scores and not sequence.scores.are_finite:
        return [Produced(sequence, -1)]
    return [] if sequence.max_tokens else [Produced(sequence, None)]


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


class Runner(ABC):
    """The model's side of the scheduler; a subclass overrides what it does.

    All calls come from one thread. By default a runner shares nothing between sequences.

    Args:
        budget: what may be held at once; without one no sequence is refused, and there is room for
            as many as the scheduler runs.

    Attributes:
        bounds: what it works within.
        scores_prompts: whether it tells how likely a prompt's own tokens are.
        counters: what it has done.
        streams: what it computes on beside MLX's default stream.
        way: how its model runs, and why so, in words.
    """

    scores_prompts = True

    def __init__(self, bounds: Bounds, budget: KVBudget | None = None) -> None:
        self.bounds = bounds
        self.streams: tuple[Any, ...] = ()
        self.way = ""
        self.counters = Counters()
        self._budget = self._whole_budget = budget
        self._needs: dict[Sequence, Need] = {}  # of those admitted

    @abstractmethod
    def insert(self, sequences: list[Sequence]) -> None:
        """Start computing these, which were admitted one by one."""

    @abstractmethod
    def remove(self, sequence: Sequence) -> None:
        """Free its place; do nothing if it is not running."""

    @abstractmethod
    def step(self) -> list[Produced]:
        """Compute at most one new token for each running sequence.

        Raises:
            PrefillError: only these prompts failed; after any other error, a failure of the GPU
                among them, all has to be restarted.
        """

    @abstractmethod
    def close(self) -> None:
        """Forget all running sequences and free their memory."""

    def recover(self) -> None:
        """Forget all that a GPU may have spoiled when it failed."""
        platform.recover(self.streams)
        self.close()

    def rebound(self, bounds: Bounds) -> None:
        """Work within other bounds from now on; what was refused before stays refused."""
        self.bounds = bounds
        if self._budget:
            total, seqs = bounds.kv_cache_bytes, bounds.max_num_seqs
            self._budget = replace(self._budget, total_bytes=total, max_num_seqs=seqs)

    @property
    @abstractmethod
    def slots(self) -> int:
        """Places in the batch at its present width."""

    @property
    def kv_cache_bytes(self) -> int:
        """Memory that key-value caches take now."""
        return 0

    def refusal(self, prompt_tokens: int, max_tokens: int) -> str | None:
        """Return why a sequence of this size can never run, or None. Safe on any thread."""
        budget = self._whole_budget  # a GPU's failure may pass, and is no reason to refuse
        return budget.refusal(prompt_tokens, max_tokens) if budget else None

    @property
    def budget(self) -> KVBudget | None:
        """What may be held at once; None where nothing bounds it."""
        return self._budget

    def new_prefixes(self) -> PrefixCache | None:
        """Return what finds and keeps prefixes that prompts share; None if it shares nothing."""
        return None

    def announce(self, sequence: Sequence) -> None:  # noqa: B027
        """Take note that a sequence waits, and of what it shares with others."""

    def withdraw(self, sequence: Sequence) -> None:  # noqa: B027
        """Forget a sequence that waits no more and will not be inserted."""

    def affinity(self, sequence: Sequence) -> int:  # noqa: ARG002
        """Return one number for waiting sequences that should run near each other; 0 if none."""
        return 0

    def admits(self, sequence: Sequence) -> bool:
        """Whether there is room for it beside what runs."""
        needs = [*self._needs.values(), Need.of(sequence)]
        return self._budget is None or self._budget.admits(needs, 0, 0)

    def reserve(self, sequence: Sequence) -> None:
        """Count an admitted sequence as running from now on."""
        self._needs[sequence] = Need.of(sequence)
