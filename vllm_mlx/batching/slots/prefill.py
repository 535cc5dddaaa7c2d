"""Prefill: prompts computed side by side, in pieces.

Rows that start from equally long prefixes are grouped by what is left of their prompts, padded at
the right to the longest and computed with a plain causal mask: a token never sees what is right of
it, so padding changes nothing but time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import mlx.core as mx

from vllm_mlx.batching.prompt_media import MediaRow, PromptMedia, SteppedModel
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.cache import KeysAndValues, PromptKVCache
from vllm_mlx.batching.slots.prefix import Prefix
from vllm_mlx.platform import PrefillShapes


@dataclass(eq=False, slots=True)
class PrefillRow:
    """One row of a prefill: a sequence, or a prefix that several sequences will share.

    Attributes:
        tokens: those to compute, after `base`.
        base: the prefix they go on from.
        target: the sequence or the prefix that gets the result.
        media: the images and videos of the prompt that they are from.
    """

    tokens: list[int]
    base: Prefix | None
    target: Sequence | Prefix
    media: PromptMedia | None = None

    @property
    def start(self) -> int:
        return self.base.end if self.base else 0

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


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
        computed: how many of them are computed, or on their way.
    """

    rows: list[PrefillRow]
    length: int
    caches: list[PromptKVCache] = field(default_factory=list)
    computed: int = 0

    @property
    def held(self) -> int:
        """Tokens of key-value cache that the batch takes, prefixes and padding included."""
        return len(self.rows) * (self.rows[0].start + self.length)

    @property
    def is_done(self) -> bool:
        return bool(self.caches) and self.computed >= self.length

    def advance(self, model: SteppedModel, num_layers: int, max_tokens: int) -> Piece:
        """Compute a piece of at most `max_tokens` tokens, at least one a row."""
        starting: list[Sequence] = []
        if not self.caches:
            columns = self.rows[0].start + self.length
            bases = [row.base for row in self.rows if row.base]
            self.caches = [
                PromptKVCache(columns, _gather(bases, layer) if bases else None)
                for layer in range(num_layers)
            ]
            starting = [row.target for row in self.rows if isinstance(row.target, Sequence)]
        start = self.computed
        stop = min(self.length, start + max(1, max_tokens // len(self.rows)))
        if stop > start:
            self._compute(model, start, stop)
            self.computed = stop
            mx.async_eval(self.states)
        size = (stop - start) * len(self.rows)
        computed = sum(len(row.tokens[start:stop]) for row in self.rows)
        cached = sum(sequence.cached_tokens for sequence in starting)
        return Piece(size, size - computed, computed + cached + len(starting), cached)

    def _compute(self, model: SteppedModel, start: int, stop: int) -> None:
        parts = [row.tokens[start:stop] for row in self.rows]
        tokens = mx.array([part + [0] * (stop - start - len(part)) for part in parts])
        if any(row.media for row in self.rows):
            at = self.rows[0].start + start
            model.prefill(tokens, self.caches, [MediaRow(row.media, at) for row in self.rows])
        else:
            model(tokens, cache=self.caches)  # the logits are never computed

    @property
    def states(self) -> list[KeysAndValues]:
        """Keys and values so far, a pair a layer; none if there is nothing to compute."""
        return [cache.state for cache in self.caches] if self.rows[0].end else []

    def select(self, rows: list[int], length: int) -> list[KeysAndValues]:
        """Return the first `length` keys and values of some rows, a pair a layer."""
        states = self.states
        if len(rows) == len(self.rows):
            return [(keys[:, :, :length], values[:, :, :length]) for keys, values in states]
        index = mx.array(rows)
        return [
            (mx.take(keys[:, :, :length], index, axis=0), mx.take(values[:, :, :length], index, 0))
            for keys, values in states
        ]

    def extract(self, row: int) -> list[KeysAndValues]:
        """Return what was computed for one row, copied out of the batch."""
        part = slice(row, row + 1), slice(None), slice(self.rows[row].start, self.rows[row].end)
        layers = [
            (mx.contiguous(keys[part]), mx.contiguous(values[part])) for keys, values in self.states
        ]
        mx.eval(layers)
        return layers


def _gather(bases: list[Prefix], layer: int) -> KeysAndValues:
    """Return the prefixes of a batch's rows as `[B, H, p, D]`."""
    joined = {id(base): [_along(base, layer, which) for which in (0, 1)] for base in bases}
    if len(joined) == 1:
        ((keys, values),) = joined.values()
        rows = (len(bases), *keys.shape[1:])
        return mx.broadcast_to(keys, rows), mx.broadcast_to(values, (*rows[:3], values.shape[3]))
    stacked = [mx.concatenate([joined[id(base)][which] for base in bases]) for which in (0, 1)]
    return stacked[0], stacked[1]


def _along(base: Prefix, layer: int, which: int) -> mx.array:
    parts = [prefix.layers[layer][which] for prefix in base.chain]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)


def group(
    rows: list[PrefillRow], shapes: PrefillShapes, max_computed: int, max_held: int
) -> list[PrefillBatch]:
    """Cut rows into batches such that the tokens computed, padding included, cost least.

    Rows of equally long prefixes are sorted by length, and the cheapest cuts are found by dynamic
    programming: a batch of `B` rows costs `shapes.overhead + B * longest`.

    Args:
        max_computed: most tokens that a batch of more than one row computes.
        max_held: most tokens that it holds, prefixes included.
    """
    starts: dict[int, list[PrefillRow]] = {}
    for row in rows:
        starts.setdefault(row.start, []).append(row)
    batches: list[PrefillBatch] = []
    for alike in starts.values():
        alike.sort(key=lambda row: -len(row.tokens))
        parts = _cut(alike, shapes, max_computed, max_held)
        batches += [PrefillBatch(part, shapes.padded(len(part[0].tokens))) for part in parts]
    return batches


def _cut(
    rows: list[PrefillRow], shapes: PrefillShapes, max_computed: int, max_held: int
) -> list[list[PrefillRow]]:
    # best[i]: the least cost of the first i rows, and where their last batch begins.
    best: list[tuple[int, int]] = [(0, 0)]
    for stop in range(1, len(rows) + 1):
        options = []
        for start in range(stop - 1, -1, -1):
            size = stop - start
            length = shapes.padded(len(rows[start].tokens))
            held = (rows[start].start + length) * size
            if size > 1 and (length * size > max_computed or held > max_held):
                break
            options.append((best[start][0] + shapes.overhead + length * size, start))
        best.append(min(options))
    parts: list[list[PrefillRow]] = []
    stop = len(rows)
    while stop:
        start = best[stop][1]
        parts.append(rows[start:stop])
        stop = start
    return parts[::-1]
