"""`PrefillQueue`: the prompts that are computed before their sequences join the batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from vllm_mlx import platform
from vllm_mlx.batching.counters import Counters
from vllm_mlx.batching.logits.prompt_scores import most_tokens
from vllm_mlx.batching.prompts.prompt_media import SteppedModel
from vllm_mlx.batching.runners.runner import PrefillError
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.budget import KVBudget
from vllm_mlx.batching.slots.layout import Layout
from vllm_mlx.batching.slots.memory import PromptMemory
from vllm_mlx.batching.slots.prefill import Piece, PrefillBatch, group
from vllm_mlx.batching.slots.prefill_row import PrefillRow
from vllm_mlx.batching.slots.prefix import Prefix, PrefixCache
from vllm_mlx.batching.slots.scoring import Scoring
from vllm_mlx.scheduler_config import Bounds


class PrefillQueue:
    """Batches of prompts, and before them of the prefixes that they share, in the order in which
    they are computed.

    Args:
        pads, whole: see `SlotRunner`.
        release: is called with each sequence that is computed no further.

    Attributes:
        batches: those that are not whole yet.
        cancelled: sequences in a batch that goes on for others.
    """

    def __init__(
        self,
        model: SteppedModel,
        layout: Layout,
        prefixes: PrefixCache,
        *,
        vocab_size: int,
        bounds: Bounds,
        budget: KVBudget,
        pads: bool,
        whole: bool,
        release: Callable[[Sequence], object],
    ) -> None:
        self._model, self._layout, self._prefixes = model, layout, prefixes
        self._most_scored = most_tokens(vocab_size)
        shapes = platform.prefill_shapes()
        self._shapes = shapes if pads else shapes._replace(multiple=1)
        self._pads, self._whole = pads, whole
        self._release_sequence = release
        self.rebound(bounds, budget)
        self.batches: deque[PrefillBatch] = deque()
        self.cancelled: set[Sequence] = set()
        self._computing: list[PrefillBatch] = []
        self._pieces: list[Piece] = []  # of these

    def rebound(self, bounds: Bounds, budget: KVBudget) -> None:
        """Work within other bounds from now on."""
        self._most, self._budget = bounds.max_num_batched_tokens, budget

    @property
    def memories(self) -> list[PromptMemory]:
        """What is held; read from other threads, too."""
        batches = {*list(self.batches), *list(self._computing)}
        return [memory for batch in batches for memory in list(batch.memories)]

    def add(self, sequences: list[Sequence]) -> None:
        """Line up their prompts, behind the prefixes that they are the first to share."""
        rows: list[PrefillRow] = []
        levels: list[list[PrefillRow]] = []  # of prefixes, by how many are before them
        for sequence in sequences:
            prefix, new = self._prefixes.longest(sequence)
            for needed in (prefix, *new):
                if needed:
                    needed.users += 1
            for part in new:
                depth = len(part.chain) - 1
                levels += [[] for _ in range(depth + 1 - len(levels))]
                own = sequence.prompt_tokens[part.start : part.end]
                scoring = Scoring.of_prefix(sequence, part)
                row = PrefillRow(own, part.parent, part, sequence.media, scoring=scoring)
                levels[depth].append(row)
            start = prefix.end if prefix else 0
            sequence.cached_tokens = start - sum(part.end - part.start for part in new)
            # To a decode step a state of zeros is one, and no token is the first.
            opens = self._layout.has_states and len(sequence.prompt_tokens) == 1
            whole = self._whole or opens
            own = sequence.prompt_tokens[start : None if whole else -1]
            scoring = Scoring.of(sequence, prefix, start, start + len(own))
            rows.append(PrefillRow(own, prefix, sequence, sequence.media, whole, scoring, opens))
        for sequence in sequences:
            self._prefixes.withdraw(sequence)
        for level in [*levels, rows]:
            kinds: dict[Any, list[PrefillRow]] = {}
            for row in level:
                kinds.setdefault(row.kind, []).append(row)
            for alike in kinds.values():
                shapes = self._shapes._replace(multiple=1) if alike[0].opens else self._shapes
                self.batches += group(alike, shapes, self._most, self._fits, self._pads)

    def _fits(self, rows: int, tokens: int) -> bool:
        return rows * self._budget.footprint.prompt(tokens) <= self._budget.prefill_bytes

    def finish_computing(self, counters: Counters) -> None:
        """Wait for what `advance` has launched, and count it: its time is now."""
        mx.eval([batch.arrays for batch in self._computing])
        self._computing.clear()
        for piece in self._pieces:
            counters.prompt_tokens += piece.prompt_tokens
            counters.cached_tokens += piece.cached_tokens
            counters.padding_tokens += piece.padding_tokens
        self._pieces.clear()

    def advance(self) -> Iterator[PrefillBatch]:
        """Launch the next piece of the prompts; yield each batch that is whole with it.

        Raises:
            PrefillError: an image or a video led the model to an error; all are given up.
        """
        left, held = self._most, 0
        while self.batches:
            batch = self.batches[0]
            held += batch.held_bytes(self._budget.footprint)
            is_first = not self._pieces
            if not is_first and (left < len(batch.rows) or held > self._budget.prefill_bytes):
                break
            most = self._shapes.most_tokens(left, len(batch.rows), batch.held)
            if batch.rows[0].scoring:
                most = min(most, self._most_scored)
            try:
                self._pieces.append(batch.advance(self._model, self._layout, most))
            except Exception as error:  # whatever an image or a video leads a model to
                if platform.is_device_failure(error):  # perhaps of the decode before it
                    raise
                raise PrefillError(self._give_up(), error) from error
            left -= self._pieces[-1].size
            self._computing.append(batch)
            if not batch.is_done:
                break
            self.batches.popleft()
            yield batch

    def hand_on(self, batch: PrefillBatch) -> list[tuple[int, Sequence]]:
        """Keep the prefixes of a batch that is whole; return its sequences, by row."""
        wanted: list[tuple[int, Sequence]] = []
        for index, row in enumerate(batch.rows):
            if not self._is_wanted(row):
                self._release(row)
            elif isinstance(row.target, Prefix):
                row.target.saved = batch.saved(index)
                if measured := batch.measurements:
                    row.target.scores = measured.scores(index)
                    row.target.logits = measured.last_logits(index)
                row.target.users -= 1
            else:
                if row.base:
                    row.base.users -= 1
                wanted.append((index, row.target))
        return wanted

    def abandon(self, sequence: Sequence) -> None:
        """Compute no more of a sequence, and of its prefixes, than others need."""
        self.cancelled.add(sequence)
        for batch in reversed(list(self.batches)):  # sequences come after their prefixes
            wanted = [row for row in batch.rows if self._is_wanted(row)]
            if wanted and batch.memories:
                continue  # its rows are computed in one
            for row in batch.rows:
                if row not in wanted:
                    self._release(row)
            batch.rows = wanted
            if not wanted:
                self.batches.remove(batch)

    def _give_up(self) -> list[Sequence]:
        """Give up all; returns the sequences whose prompts those were."""
        rows = [row for batch in self.batches for row in batch.rows]
        targets = [row.target for row in rows if isinstance(row.target, Sequence)]
        wanted = [target for target in targets if target not in self.cancelled]
        for row in reversed(rows):  # sequences come after their prefixes
            self._release(row)
        self.batches.clear()
        return wanted

    def _is_wanted(self, row: PrefillRow) -> bool:
        if isinstance(row.target, Prefix):
            return row.target.users > 1  # one is its own prefill
        return row.target not in self.cancelled

    def _release(self, row: PrefillRow) -> None:
        """Give back what a row holds."""
        if isinstance(row.target, Prefix):
            self._prefixes.discard(row.target)
            return
        if row.base:
            row.base.users -= 1
        self.cancelled.discard(row.target)
        self._release_sequence(row.target)
