"""`SlotRunner`: steps a model over slots in a ring.

A step is: prefill what has joined, launch the next decode, and read the tokens of the decode
before it, which has been computing meanwhile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx

from vllm_mlx import platform
from vllm_mlx.batching.aside import Aside
from vllm_mlx.batching.logits.logprobs import Logprobs
from vllm_mlx.batching.logits.masks import take_all
from vllm_mlx.batching.runners.runner import Produced, Runner, prompt_read
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.budget import KVBudget, Need
from vllm_mlx.batching.slots.decode import DecodeStep
from vllm_mlx.batching.slots.layout import Layout
from vllm_mlx.batching.slots.memory import Joining, join_all, resize_rows
from vllm_mlx.batching.slots.one_token_rows import OneTokenRows
from vllm_mlx.batching.slots.prefill import PrefillBatch
from vllm_mlx.batching.slots.prefill_queue import PrefillQueue
from vllm_mlx.batching.slots.prefix import PrefixCache
from vllm_mlx.batching.slots.ring import COLUMN_STEP, columns_for
from vllm_mlx.batching.slots.rings import Rings
from vllm_mlx.batching.slots.sampling import BatchSampler, Sampled
from vllm_mlx.scheduler_config import Bounds


class _Launch(NamedTuple):
    """A decode step on its way: which sequence was in which slot, and what is being computed.

    Attributes:
        shown: its tokens once more, where constraints read them while the next step is launched.
    """

    rows: dict[int, Sequence]
    sampled: Sampled
    shown: mx.array | None


class SlotRunner(Runner):
    """`Runner` for models whose memories have a form for slots.

    Args:
        layout: what the model remembers of a sequence.
        budget: what may be held at once.
        pads: whether prompts of unlike lengths are computed together.
        whole: all tokens of a prompt see each other, so that it is computed at once, with its last
            token, and shared with none.
        compiles: whether decode steps are compiled; None where a backend is faster so.
    """

    def __init__(
        self,
        model: Any,
        *,
        layout: Layout,
        vocab_size: int,
        budget: KVBudget,
        bounds: Bounds,
        pads: bool = True,
        whole: bool = False,
        compiles: bool | None = None,
    ) -> None:
        super().__init__(bounds, budget)
        self._model = model
        self._compiles = platform.compiles_steps() if compiles is None else compiles
        self._layout = layout
        self._vocab_size = vocab_size
        self._budget: KVBudget = budget
        self._whole = whole
        self.scores_prompts = not whole  # what has seen the end of a prompt can't tell how likely
        self._prefixes = self.new_prefixes()
        self._pads = pads
        self._shrink_below = platform.shrink_below()
        self._aside = Aside("constraints")
        self._reset()

    def _reset(self) -> None:
        self._rings = Rings(self._layout.windows, 1, COLUMN_STEP)
        self._memories = self._layout.new_slots(self._rings)
        caches = self._layout.nested(self._memories)
        self._decode = DecodeStep(self._model, self._memories, caches, compiles=self._compiles)
        self._sampler = BatchSampler(self._vocab_size)
        self._inputs = mx.zeros((1,), dtype=mx.int32)
        self._running: dict[int, Sequence] = {}  # by slot
        # Keyed by the sequences themselves: an aborted one's id may come again at once.
        self._slot_of: dict[Sequence, int] = {}
        self._needs.clear()
        self._prefills = PrefillQueue(
            self._model,
            self._layout,
            self._prefixes,
            vocab_size=self._vocab_size,
            bounds=self.bounds,
            budget=self._budget,
            pads=self._pads,
            whole=self._whole,
            release=self._needs.pop,
        )
        # Prompts that are computed, or on their way, of which there is something to tell.
        self._read: dict[Sequence, tuple[PrefillBatch, int]] = {}
        self._launched: _Launch | None = None
        self._one_token_rows = OneTokenRows()
        self._is_tight = False

    def new_prefixes(self) -> PrefixCache:
        share = 0 if self._whole else self._budget.prefix_bytes
        return PrefixCache(share, self._budget.footprint)

    # What may join.

    def announce(self, sequence: Sequence) -> None:
        self._prefixes.announce(sequence)

    def withdraw(self, sequence: Sequence) -> None:
        self._prefixes.withdraw(sequence)

    def affinity(self, sequence: Sequence) -> int:
        return self._prefixes.shared_with(sequence)

    def admits(self, sequence: Sequence) -> bool:
        needs = [*self._needs.values(), Need.of(sequence)]
        if self._budget.admits(needs, self._rings.slots, self._rings.columns):
            return True
        # It may fit once the ring is no larger than it must be.
        self._is_tight |= self._budget.admits(needs, 0, 0)
        return False

    def reserve(self, sequence: Sequence) -> None:
        # A sequence that joins an empty batch gets a ring no larger than it needs.
        self._is_tight = self._is_tight or not self._needs
        super().reserve(sequence)

    def insert(self, sequences: list[Sequence]) -> None:
        if not self._running:
            self._fit()  # before prompts take memory beside a ring that no row needs
        self._prefills.add(sequences)

    def remove(self, sequence: Sequence) -> None:
        slot = self._slot_of.pop(sequence, None)
        self._read.pop(sequence, None)
        if slot is not None:
            del self._needs[sequence]
            del self._running[slot]
            self._rings.free(slot)
            self._sampler.leave(slot)
            if sequence.finish_reason is None:  # its unread token may be NaN
                self._clear(slot)
        elif sequence in self._needs:
            self._prefills.abandon(sequence)

    # The step.

    def step(self) -> list[Produced]:
        with self.counters.timed("prefill"):
            # Of the step before; the decode launched after it goes on.
            self._prefills.finish_computing(self.counters)
            read = [each for sequence in list(self._read) for each in self._end_prompt(sequence)]
            for batch in self._prefills.advance():
                self._finish(batch)
        with self.counters.timed("decode"):
            before, self._launched = self._launched, None
            if self._goes_on(before):
                self._fit()
                self._launched = self._launch(before)
            return read + self._collect(before)

    def close(self) -> None:
        self._prefixes.clear()
        self._reset()

    def recover(self) -> None:
        super().recover()
        if hasattr(self._model, "forget"):
            self._model.forget()

    def rebound(self, bounds: Bounds) -> None:
        super().rebound(bounds)
        self._prefixes.max_bytes = self._budget.prefix_bytes
        self._prefills.rebound(bounds, self._budget)

    @property
    def slots(self) -> int:
        return self._rings.slots

    @property
    def kv_cache_bytes(self) -> int:
        # Read from other threads, too: what changes under way is copied first.
        held: list[Any] = [*self._memories, *self._prefills.memories]
        nbytes: int = sum(each.nbytes for each in held)
        return nbytes + self._prefixes.nbytes

    def _finish(self, batch: PrefillBatch) -> None:
        """Let the sequences of a batch that is whole join."""
        joining: list[tuple[int, Sequence]] = []
        for index, sequence in self._prefills.hand_on(batch):
            if sequence.max_tokens:
                joining.append((index, sequence))
            else:
                del self._needs[sequence]
            if batch.measurements or not sequence.max_tokens:
                self._read[sequence] = batch, index
        if joining:
            self._join(joining, batch)

    def _end_prompt(self, sequence: Sequence) -> list[Produced]:
        """Tell what is found of a prompt that is computed, and of the prefixes that it shares."""
        batch, index = self._read.pop(sequence)
        if sequence.scores:
            batch.tell(index, sequence.scores)
        return prompt_read(sequence)

    def _join(self, joining: list[tuple[int, Sequence]], batch: PrefillBatch) -> None:
        self._fit(max(len(sequence.prompt_tokens) for _, sequence in joining))
        slots = self._choose_slots(joining)
        lengths = [len(sequence.prompt_tokens) - 1 for _, sequence in joining]
        for slot, length in zip(slots, lengths, strict=True):
            if not length:  # others write over the last step, which may still be unread
                self._clear(slot)
        if batch.logits is None:
            rows = Joining([row for row, _ in joining], slots, lengths)
            join_all(self._memories, rows, batch.memories)
        else:
            self._one_token_rows.add(batch, joining)
        last = [sequence.prompt_tokens[-1] for _, sequence in joining]
        self._inputs[mx.array(slots)] = mx.array(last, dtype=mx.int32)
        for slot, length, (_, sequence) in zip(slots, lengths, joining, strict=True):
            self._running[slot] = sequence
            self._slot_of[sequence] = slot
            self._rings.occupy(slot, length, sequence.media.rope_delta if sequence.media else 0)
            if sequence.media:
                sequence.media.release()
            self._sampler.join(slot, self._rings.slots, sequence)

    def _choose_slots(self, joining: list[tuple[int, Sequence]]) -> list[int]:
        """Long rows take low slots and short ones high slots: attention that reads neighbouring
        slots together then reads little that is not there."""
        free = [slot for slot in range(self._rings.slots) if slot not in self._running]
        longest = max(len(sequence.prompt_tokens) for _, sequence in joining)
        lengths = sorted(self._rings.lengths[slot] for slot in self._running)
        if lengths and longest < lengths[len(lengths) // 2]:
            return free[-len(joining) :]
        return free[: len(joining)]

    def _goes_on(self, before: _Launch | None) -> bool:
        """Whether a row may have tokens beyond the one of the step before, which is not read."""
        unread = before.rows if before else {}
        return any(
            sequence.max_tokens - len(sequence.output_tokens) > (unread.get(slot) is sequence)
            for slot, sequence in self._running.items()
        )

    def _launch(self, before: _Launch | None) -> _Launch:
        is_constrained = self._sampler.is_constrained
        if is_constrained:
            self._sampler.prepare()
            with self._aside.run(lambda: self._constrain(before)):
                logits = self._decode(self._inputs, self._rings)
                mx.async_eval(logits)
        else:
            logits = self._decode(self._inputs, self._rings)
        self._rings.advance(self._running)
        self._one_token_rows.finish(logits, self._memories, self._slot_of)
        sampled = self._sampler(logits)
        shown = sampled.tokens + 0 if is_constrained else None
        mx.async_eval(sampled, self._inputs, shown)
        self._inputs = sampled.tokens
        self.counters.steps += 1
        return _Launch(dict(self._running), sampled, shown)

    def _constrain(self, before: _Launch | None) -> None:
        """Show constraints the tokens of the step before, and ask them for those of the next."""
        if before and before.shown is not None:
            held = [(slot, row) for slot, row in before.rows.items() if row in self._slot_of]
            tokens: Any = before.shown.tolist()
            take_all(held, tokens)
        self._sampler.fill_mask()

    def _collect(self, launch: _Launch | None) -> list[Produced]:
        """Read the tokens of a launch, but for rows that have left since."""
        if launch is None:
            return []
        tokens: Any = launch.sampled.tokens.tolist()
        logprobs = _read_logprobs(launch)
        platform.raise_failure()
        produced = []
        for slot, sequence in launch.rows.items():
            token = tokens[slot]
            if sequence in self._slot_of:
                produced.append(Produced(sequence, token, logprobs.get(slot)))
                if token < 0:
                    self._clear(self._slot_of[sequence])
        if min(tokens) < 0:  # free slots go on, too, over what they make up
            for slot in range(min(len(tokens), self._rings.slots)):
                if tokens[slot] < 0 and slot not in self._running:
                    self._clear(slot)
        return produced

    def _clear(self, slot: int) -> None:
        """Zero a slot that holds infinities, which would give NaN in the next sequence."""
        for memory in self._memories:
            memory.clear(slot)

    # The ring's size.

    def _fit(self, joining: int = 0) -> None:
        """Resize the ring if it is too small for all admitted sequences, or much too large.

        Args:
            joining: tokens of the longest prompt that is about to join.
        """
        longest = max((self._rings.lengths[slot] for slot in self._running), default=0)
        reserved = max((need.columns for need in self._needs.values()), default=0)
        entering = sum(need.columns > 0 for need in self._needs.values())
        width = self._size(self._budget.width(max(1, entering)), self._rings.slots)
        columns = self._size(columns_for(max(longest, joining) + 1), self._rings.columns, reserved)
        self._is_tight = False
        if (width, columns) != (self._rings.slots, self._rings.columns):
            self._resize(width, columns)

    def _size(self, needed: int, held: int, reserved: int = 0) -> int:
        """Keep what is held unless it is too small, or so large that shrinking pays."""
        useful = max(needed, min(held, reserved))
        shrinks = useful < held and (self._is_tight or useful <= held * self._shrink_below)
        return useful if needed > held or shrinks else held

    def _resize(self, width: int, columns: int) -> None:
        """Resize the ring; only slots beyond the new width move, to free ones below."""
        free = (slot for slot in range(width) if slot not in self._running)
        moves = {slot: next(free) for slot in sorted(self._running) if slot >= width}
        rings = self._rings.resized(moves, width, columns)
        for memory in self._memories:
            memory.resize(rings, moves)
        self._sampler.resize(moves, width)
        self._inputs = resize_rows(self._inputs, moves, width)
        for old, new in moves.items():
            self._running[new] = sequence = self._running.pop(old)
            self._slot_of[sequence] = new
        self._rings = rings
        mx.clear_cache()  # rings of the old size would be kept for others that never come


def _read_logprobs(launch: _Launch) -> dict[int, Logprobs]:
    """Return log-probabilities by slot, for the rows that asked for them."""
    if launch.sampled.report is None:
        return {}
    lists: Any = [array.tolist() for array in launch.sampled.report]
    chosen, ids, values = lists
    found = {}
    for slot, sequence in launch.rows.items():
        if (count := sequence.params.logprobs) is not None:
            found[slot] = Logprobs.read(chosen[slot], ids[slot], values[slot], count)
    return found
