"""`UpstreamRunner`: mlx-lm's own continuous batching, for models that slots can't hold.

Nothing else of ours knows `mlx_lm.generate.BatchGenerator`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, generation_stream
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from vllm_mlx import platform
from vllm_mlx.batching.logits import Choose
from vllm_mlx.batching.logits.masks import make_mask, masked, take_last
from vllm_mlx.batching.logits.penalty import Shaping, make_processors, shaped
from vllm_mlx.batching.logits.prompt_scores import score_prompt
from vllm_mlx.batching.logits.thought_budgets import ThoughtBudgets
from vllm_mlx.batching.runners.cache_budget import in_place_budget
from vllm_mlx.batching.runners.runner import Produced, Runner, prompt_read
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.draws import Sampling, make_choose
from vllm_mlx.scheduler_config import Bounds

PREFILL_BATCH_SIZE = 8  # mlx-lm's default: prompts padded together
_PADDABLE = (KVCache, RotatingKVCache)


class UpstreamRunner(Runner):
    """`Runner` on mlx-lm's continuous batching."""

    def __init__(self, model: Any, *, vocab_size: int, bounds: Bounds) -> None:
        super().__init__(bounds, in_place_budget(model, bounds))
        self.streams = (generation_stream,)
        self._vocab_size = vocab_size
        self._shapes = platform.prefill_shapes()
        caches = make_prompt_cache(model)
        if any(getattr(cache, "keep", 0) for cache in caches):
            raise ValueError("mlx-lm's batches do not keep the first tokens of a window")
        # Some state-space models of mlx-lm 0.32 read the padding as if it were prompt.
        self._paddable = all(isinstance(each, _PADDABLE) for each in caches)
        self._model = model
        self._rows: dict[int, Sequence] = {}
        self._shapings: dict[int, Shaping | None] = {}
        self._generators: dict[int, random.Random] = {}
        self._decoding: list[int] = []  # rows whose next token is asked for
        self._stepped: set[int] = set()  # those that were, in the step at hand
        self._chosen_for: list[int] = []
        self._choose: Choose | None = None
        self._budgets = ThoughtBudgets()
        self._held_bytes = 0
        self._to_read: deque[Sequence] = deque()
        self._generator: Any = self._new_generator()

    def _new_generator(self) -> Any:
        generator = BatchGenerator(self._model, sampler=self._sample)
        self._bound(generator)
        return generator

    def _bound(self, generator: Any) -> None:
        most, seqs = self.bounds.max_num_batched_tokens, self.bounds.max_num_seqs
        rows = min(PREFILL_BATCH_SIZE if self._paddable else 1, seqs, most)
        self._step_size = min(platform.prefill_step_size(), most // rows)
        generator.completion_batch_size = seqs
        generator.prefill_batch_size = rows

    def insert(self, sequences: list[Sequence]) -> None:
        self._to_read += [each for each in sequences if each.scores or not each.max_tokens]
        for sequence in sequences:
            if not sequence.max_tokens:
                continue
            (uid,) = self._generator.insert(
                [sequence.prompt_tokens],
                max_tokens=[sequence.max_tokens],
                logits_processors=[make_processors(sequence) + take_last(sequence)],
            )
            self._rows[uid] = sequence
            self._shapings[uid] = Shaping.of(sequence)
            if sequence.seed is not None:
                self._generators[uid] = random.Random(sequence.seed)

    def remove(self, sequence: Sequence) -> None:
        for uid in [uid for uid, row in self._rows.items() if row is sequence]:
            self._generator.remove([uid])
            self._forget(uid)
        if sequence in self._to_read:
            self._to_read.remove(sequence)
        self._needs.pop(sequence, None)

    def step(self) -> list[Produced]:
        """Read one prompt of which more is asked than what follows it, or step the batch."""
        if self._to_read:
            sequence = self._to_read.popleft()
            if scores := sequence.scores:
                given = self._model, sequence.prompt_tokens, scores
                with self.counters.timed("prefill"):
                    score_prompt(*given, self._vocab_size, self._step_size)
            if not sequence.max_tokens:
                self.counters.prompt_tokens += len(sequence.prompt_tokens)
            return prompt_read(sequence)
        responses = self._advance()
        self._held_bytes = self._generator.prompt_cache_nbytes
        if not responses:
            return []
        self.counters.steps += 1
        chosen: Any = mx.stack([each.logprobs[each.token] for each in responses]).tolist()
        platform.raise_failure(generation_stream)
        produced = [
            Produced.of(self._rows[each.uid], each.token, logprob, each.logprobs)
            for each, logprob in zip(responses, chosen, strict=True)
        ]
        for response in responses:
            if response.finish_reason:  # upstream has dropped the row itself
                self._forget(response.uid)
        return produced

    def _forget(self, uid: int) -> None:
        del self._rows[uid], self._shapings[uid]
        self._generators.pop(uid, None)

    def _advance(self) -> list[Any]:
        """Step the generator. A call may do both parts; its time is then divided."""
        generator = self._generator
        starting = [len(row.prompt_tokens) for row in self._rows.values() if not row.output_tokens]
        rows, longest = generator.prefill_batch_size, max(starting, default=0)
        most = self._shapes.most_tokens(rows * self._step_size, rows, longest)
        generator.prefill_step_size = most // rows
        self._decoding = list(generator._generation_batch.uids)
        self._stepped = set(self._decoding)
        part = "prefill" if starting else "decode"
        with generator.stats() as done, self.counters.timed(part):
            prompts, responses = generator.next()
            # Counts of tokens that no layer asks for would be a longer graph with each step.
            mx.async_eval(list(_arrays(generator._generation_batch.prompt_cache)))
        if starting:
            self.counters.prefill_seconds -= done.decode_time
            self.counters.decode_seconds += done.decode_time
        last_tokens = sum(prompt.end_of_prompt for prompt in prompts)  # they are decoded
        self.counters.prompt_tokens += done.prompt_tokens + last_tokens
        return list(responses)

    def _sample(self, logprobs: mx.array) -> mx.array:
        """Choose for all rows that upstream steps at once."""
        uids = self._asked_for()
        if len(uids) != logprobs.shape[0]:
            raise ValueError(f"mlx-lm samples {logprobs.shape[0]} rows where {len(uids)} are known")
        if self._choose is None or uids != self._chosen_for:
            rows = {
                at: Sampling(self._rows[uid].params, self._generators[uid])
                for at, uid in enumerate(uids)
                if uid in self._generators
            }
            choose = make_choose(rows, self._vocab_size)
            sequences = {at: self._rows[uid] for at, uid in enumerate(uids)}
            shapings = {at: self._shapings[uid] for at, uid in enumerate(uids)}
            choose = self._budgets.bounded(masked(choose, make_mask(sequences)), sequences)
            self._choose = shaped(choose, shapings)
            self._chosen_for = uids
        return self._choose(logprobs)

    def _asked_for(self) -> list[int]:
        """Return the rows in upstream's order: it steps those that decode, and then those whose
        prompts are done, first come, first served."""
        decoding, self._decoding = self._decoding, []
        if decoding:
            return decoding
        waiting = {uid for uid, *_ in self._generator._unprocessed_sequences}
        waiting |= self._stepped.union(self._generator._prompt_batch.uids)
        return [uid for uid in self._rows if uid not in waiting]

    def rebound(self, bounds: Bounds) -> None:
        super().rebound(bounds)
        self._bound(self._generator)

    def close(self) -> None:
        with suppress(RuntimeError):  # it waits, and what has failed may be reported once more
            self._generator.close()
        self._rows.clear()
        self._to_read.clear()
        self._shapings.clear()
        self._generators.clear()
        self._choose = None  # a new generator counts its rows from the start
        self._needs.clear()
        self._generator = self._new_generator()

    @property
    def slots(self) -> int:
        return len(self._rows)

    @property
    def kv_cache_bytes(self) -> int:
        return self._held_bytes if self._rows else 0


def _arrays(held: Any) -> Iterator[mx.array]:
    """Yield all arrays of caches, those that count among them."""
    if isinstance(held, mx.array):
        yield held
    elif isinstance(held, list | tuple):
        for each in held:
            yield from _arrays(each)
    elif hasattr(held, "__dict__"):
        yield from _arrays(list(vars(held).values()))
