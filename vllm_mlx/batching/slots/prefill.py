"""Prefill: prompts computed side by side, in pieces.

Rows that start from equally long prefixes are grouped by what is left of their prompts and padded
at the right to the longest; see `PromptPositions`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import mlx.core as mx

from vllm_mlx.batching.logits.prompt_scores import PromptScores
from vllm_mlx.batching.prompts.prompt_media import MediaRow, SteppedModel
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.layout import Footprint, Layout
from vllm_mlx.batching.slots.memory import PromptMemory, Saved
from vllm_mlx.batching.slots.positions import PromptPositions
from vllm_mlx.batching.slots.prefill_row import PrefillRow
from vllm_mlx.batching.slots.scoring import Measurements
from vllm_mlx.platform import PrefillShapes


class Piece(NamedTuple):
    """What one `PrefillBatch.advance` did.

    Attributes:
        size: tokens computed.
        padding_tokens: those of them that only made rows equally long.
        prompt_tokens: tokens of prompts that are done with; the first piece counts the cached ones
            of its prompts, too, and the last one of each, which is decoded.
        cached_tokens: those of them that another prompt had computed.
    """

    size: int
    padding_tokens: int
    prompt_tokens: int
    cached_tokens: int


@dataclass(eq=False, slots=True)
class PrefillBatch:
    """Rows computed together, the longest first. `advance()` until `is_done`.

    Attributes:
        length: tokens that each row is padded to.
        memories: what the model remembers of them so far.
        computed: how many of them are computed, or on their way.
        measurements: what is told of their tokens; None if nothing is asked, of any.
        logits: `[B, V]` of what follows rows that open (see `PrefillRow`); None for others.
    """

    rows: list[PrefillRow]
    length: int
    memories: list[PromptMemory] = field(default_factory=list)
    computed: int = 0
    _caches: list[Any] = field(default_factory=list)
    measurements: Measurements | None = None
    logits: mx.array | None = None
    _positions: PromptPositions | None = None

    @property
    def start(self) -> int:
        """Tokens of the rows' prefixes."""
        return self.rows[0].start

    @property
    def held(self) -> int:
        """Tokens of each row that are computed, its prefix and padding among them."""
        return self.start + self.computed

    @property
    def is_done(self) -> bool:
        return self._positions is not None and self.computed >= self.length

    def held_bytes(self, footprint: Footprint) -> int:
        """What it takes when all is computed, prefixes and padding included."""
        return len(self.rows) * footprint.prompt(self.start + self.length)

    def advance(self, model: SteppedModel, layout: Layout, max_tokens: int) -> Piece:
        """Compute a piece of at most `max_tokens` tokens, at least one a row."""
        starting: list[Sequence] = []
        if self._positions is None:
            self._positions = PromptPositions(self.start)
            stop = self.start + self.length
            self.memories = layout.new_prompts(self._positions, stop, self._prefixes(layout))
            self._caches = layout.nested(self.memories)
            starting = [row.target for row in self.rows if isinstance(row.target, Sequence)]
            if asked := [row.scoring for row in self.rows if row.scoring]:
                prefixes = [row.base.logits for row in self.rows if row.base]
                self.measurements = Measurements(asked, prefixes)
        start = self.computed
        stop = min(self.length, start + max(1, max_tokens // len(self.rows)))
        if any(row.is_whole for row in self.rows):
            stop = self.length
        if stop > start:
            self._compute(model, self._positions, start, stop)
            self.computed = stop
            mx.async_eval(self.arrays)
        size = (stop - start) * len(self.rows)
        computed = sum(len(row.tokens[start:stop]) for row in self.rows)
        cached = sum(sequence.cached_tokens for sequence in starting)
        decoded = 0 if self.rows[0].whole else len(starting)
        return Piece(size, size - computed, computed + cached + decoded, cached)

    def _compute(
        self, model: SteppedModel, positions: PromptPositions, start: int, stop: int
    ) -> None:
        own = [min(len(row.tokens), stop) - start for row in self.rows]
        positions.move_to(self.start + start, own if min(own) < stop - start else None)
        parts = [row.tokens[start:stop] for row in self.rows]
        tokens = mx.array([part + [0] * (stop - start - len(part)) for part in parts])
        if any(row.media for row in self.rows):
            at = self.start + start
            model.prefill(tokens, self._caches, [MediaRow(row.media, at) for row in self.rows])
        else:
            logits = model(tokens, cache=self._caches)
            if self.measurements:  # else the logits are never computed
                self.measurements.add(logits, start, stop)
            if self.rows[0].opens:
                self.logits = logits[:, -1]

    def _prefixes(self, layout: Layout) -> list[Saved] | None:
        """Return what the rows go on from, for each memory; None if that is nothing."""
        bases = [row.base for row in self.rows if row.base]
        if not bases:
            return None
        chains = {id(base): [prefix.saved for prefix in base.chain] for base in bases}
        prefixes = []
        for at, kind in enumerate(layout.kinds):
            joined = {
                key: kind.joined([saved[at] for saved in chain]) for key, chain in chains.items()
            }
            prefixes.append(_stacked([joined[id(base)] for base in bases]))
        return prefixes

    @property
    def arrays(self) -> list[mx.array]:
        """All that is remembered so far, and measured."""
        found = self.measurements.arrays if self.measurements else []
        if self.logits is not None:
            found.append(self.logits)
        return [array for memory in self.memories for array in memory.arrays] + found

    def tell(self, row: int, scores: PromptScores) -> None:
        """Tell what was measured of a row's prompt, with the prefixes that it shares."""
        if self.measurements is None:
            return
        found, base = self.measurements.scores(row), self.rows[row].base
        if scores.of_all and base:
            found = [each for prefix in base.chain for each in prefix.scores] + found
        scores.found = found[len(found) + scores.first - self.rows[row].end - 1 :]

    def saved(self, row: int) -> list[Saved]:
        """Return what each memory keeps of one row's own part, copied out of the batch."""
        start, stop = self.rows[row].start, self.rows[row].end
        saved = [memory.saved(row, start, stop) for memory in self.memories]
        mx.eval(saved)
        return saved


def _stacked(rows: list[Saved]) -> Saved:
    """Return what several rows remember, `[1, ...]` each, as `[B, ...]`."""
    if all(row is rows[0] for row in rows):
        B = len(rows)
        return tuple(
            each if each is None else mx.broadcast_to(each, (B, *each.shape[1:]))
            for each in rows[0]
        )
    return tuple(
        None if any(each is None for each in column) else mx.concatenate(list(column))
        for column in zip(*rows, strict=True)
    )


def group(
    rows: list[PrefillRow],
    shapes: PrefillShapes,
    max_computed: int,
    fits: Callable[[int, int], bool],
    pads: bool = True,
) -> list[PrefillBatch]:
    """Cut rows into batches such that the tokens computed, padding included, cost least.

    Rows of equally long prefixes are sorted by length, and the cheapest cuts are found by dynamic
    programming: a batch of `B` rows costs `shapes.overhead + B * longest`.

    Args:
        max_computed: most tokens that a batch of more than one row computes.
        fits: whether so many rows of so many tokens, prefixes included, may be held together.
        pads: whether rows of unlike lengths may be computed together.
    """
    starts: dict[int, list[PrefillRow]] = {}
    batches: list[PrefillBatch] = []
    for row in rows:
        if row.is_alone:
            batches.append(PrefillBatch([row], len(row.tokens)))
        else:
            starts.setdefault(row.start, []).append(row)
    for alike in starts.values():
        alike.sort(key=lambda row: -len(row.tokens))
        parts = _cut(alike, shapes, max_computed, fits, pads)
        batches += [PrefillBatch(part, shapes.padded(len(part[0].tokens))) for part in parts]
    return batches


def _cut(
    rows: list[PrefillRow],
    shapes: PrefillShapes,
    max_computed: int,
    fits: Callable[[int, int], bool],
    pads: bool,
) -> list[list[PrefillRow]]:
    own = [len(row.tokens) for row in rows]
    lengths = [shapes.padded(each) for each in own]

    def suits(start: int, stop: int) -> bool:
        size, length = stop - start, lengths[start]
        is_level = pads or own[start] == own[stop - 1]
        return is_level and length * size <= max_computed and fits(size, rows[0].start + length)

    # best[i]: the least cost of the first i rows, and where their last batch begins.
    best: list[tuple[int, int]] = [(0, 0)]
    first = 0  # where the last batch may begin: later for later rows, as lengths fall
    for stop in range(1, len(rows) + 1):
        while first < stop - 1 and not suits(first, stop):
            first += 1
        cost, start = min(
            (best[start][0] + lengths[start] * (stop - start), start)
            for start in range(first, stop)
        )
        best.append((cost + shapes.overhead, start))
    parts: list[list[PrefillRow]] = []
    stop = len(rows)
    while stop:
        start = best[stop][1]
        parts.append(rows[start:stop])
        stop = start
    return parts[::-1]
