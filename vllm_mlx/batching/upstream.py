"""`UpstreamRunner`: mlx-lm's own continuous batching, for models that slots can't hold.

Those are models with a cache that is no plain list of keys and values: sliding windows, state
spaces. Nothing else of ours knows `mlx_lm.generate.BatchGenerator`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from vllm_mlx import platform
from vllm_mlx.batching.fallback_sampler import make_processors, make_sampler
from vllm_mlx.batching.runner import Produced, Runner
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.scheduler_config import Bounds

PREFILL_BATCH_SIZE = 8  # mlx-lm's default: prompts padded together
_PADDABLE = (KVCache, RotatingKVCache)


class UpstreamRunner(Runner):
    """`Runner` on mlx-lm's continuous batching. It does not know `kv_cache_bytes`."""

    def __init__(self, model: Any, *, vocab_size: int, bounds: Bounds) -> None:
        super().__init__(bounds)
        self._vocab_size = vocab_size
        # Some state-space models of mlx-lm 0.32 read the padding as if it were prompt.
        paddable = all(isinstance(cache, _PADDABLE) for cache in make_prompt_cache(model))
        most = bounds.max_num_batched_tokens
        rows = min(PREFILL_BATCH_SIZE if paddable else 1, bounds.max_num_seqs, most)
        self._new_generator = partial(
            BatchGenerator,
            model,
            completion_batch_size=bounds.max_num_seqs,
            prefill_batch_size=rows,
            prefill_step_size=min(platform.prefill_step_size(), most // rows),
        )
        self._rows: dict[int, Sequence] = {}
        self._generator: Any = self._new_generator()

    def insert(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            params = sequence.params
            (uid,) = self._generator.insert(
                [sequence.prompt_tokens],
                max_tokens=[sequence.max_tokens],
                samplers=[make_sampler(params, sequence.seed, self._vocab_size)],
                logits_processors=[make_processors(params)],
            )
            self._rows[uid] = sequence

    def remove(self, sequence: Sequence) -> None:
        uids = [uid for uid, row in self._rows.items() if row is sequence]
        for uid in uids:
            del self._rows[uid]
            self._generator.remove([uid])

    def step(self) -> list[Produced]:
        responses = self._advance()
        if not responses:
            return []
        self.counters.steps += 1
        chosen: Any = mx.stack([each.logprobs[each.token] for each in responses]).tolist()
        produced = [
            Produced.of(self._rows[each.uid], each.token, logprob, each.logprobs)
            for each, logprob in zip(responses, chosen, strict=True)
        ]
        for response in responses:
            if response.finish_reason:  # upstream has dropped the row itself
                del self._rows[response.uid]
        return produced

    def _advance(self) -> list[Any]:
        """Step the generator. A call may do both parts; its time is then divided."""
        starts = any(not sequence.output_tokens for sequence in self._rows.values())
        part = "prefill" if starts else "decode"
        with self._generator.stats() as done, self.counters.timed(part):
            prompts, responses = self._generator.next()
        if starts:
            self.counters.prefill_seconds -= done.decode_time
            self.counters.decode_seconds += done.decode_time
        last_tokens = sum(prompt.end_of_prompt for prompt in prompts)  # they are decoded
        self.counters.prompt_tokens += done.prompt_tokens + last_tokens
        return list(responses)

    def close(self) -> None:
        self._generator.close()
        self._rows.clear()
        self._generator = self._new_generator()

    @property
    def slots(self) -> int:
        return len(self._rows)
