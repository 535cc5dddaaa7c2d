"""`Runner`: what computes the next token of every running sequence.

`UpstreamRunner` steps `mlx_lm.generate.BatchGenerator`; nothing else of ours knows that class.
"""

from __future__ import annotations

from typing import Any, Protocol

from mlx_lm.generate import BatchGenerator

from vllm_mlx import platform
from vllm_mlx.batching.sampler import make_processors, make_sampler
from vllm_mlx.batching.sequence import Sequence

PREFILL_BATCH_SIZE = 8  # mlx-lm's default: prompts padded together


class Runner(Protocol):
    """The model's side of the scheduler. All calls come from one thread."""

    def insert(self, sequence: Sequence) -> None:
        """Start computing this sequence."""

    def remove(self, sequence: Sequence) -> None:
        """Free its place; nothing happens if it is not running."""

    def step(self) -> list[tuple[Sequence, int]]:
        """Compute: at most one new token for each running sequence."""

    def close(self) -> None:
        """Forget all sequences and free their memory."""


class UpstreamRunner:
    """`Runner` on mlx-lm's continuous batching."""

    def __init__(
        self, model: Any, eos_token_ids: set[int], *, vocab_size: int, max_num_seqs: int
    ) -> None:
        self._model = model
        self._vocab_size = vocab_size
        self._stop_tokens = [[token] for token in sorted(eos_token_ids)]
        self._max_num_seqs = max_num_seqs
        self._rows: dict[int, Sequence] = {}
        self._uids: dict[str, int] = {}
        self._generator = self._new_generator()

    def insert(self, sequence: Sequence) -> None:
        params = sequence.params
        (uid,) = self._generator.insert(
            [sequence.prompt_tokens],
            max_tokens=[sequence.max_tokens],
            samplers=[make_sampler(params, sequence.seed, self._vocab_size)],
            logits_processors=[make_processors(params)],
        )
        self._rows[uid] = sequence
        self._uids[sequence.request_id] = uid

    def remove(self, sequence: Sequence) -> None:
        uid = self._uids.pop(sequence.request_id, None)
        if uid is not None:
            del self._rows[uid]
            self._generator.remove([uid])

    def step(self) -> list[tuple[Sequence, int]]:
        _, responses = self._generator.next()
        produced = [(self._rows[response.uid], response.token) for response in responses]
        for response in responses:
            if response.finish_reason:  # upstream has dropped the row itself
                del self._uids[self._rows.pop(response.uid).request_id]
        return produced

    def close(self) -> None:
        self._generator.close()
        self._rows.clear()
        self._uids.clear()
        self._generator = self._new_generator()

    def _new_generator(self) -> Any:
        return BatchGenerator(
            self._model,
            stop_tokens=self._stop_tokens,
            completion_batch_size=self._max_num_seqs,
            prefill_batch_size=min(PREFILL_BATCH_SIZE, self._max_num_seqs),
            prefill_step_size=platform.prefill_step_size(),
        )
