"""Prefill: prompts computed side by side, in pieces.

Rows that start from equally long prefixes are grouped by what is left of their prompts, padded at
the right to the longest and computed with a plain causal mask: a token never sees what is right of
it, so padding changes nothing but time.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from vllm_mlx.batching.media import MediaRow, PromptMedia
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.cache import KeysAndValues, PromptKVCache
from vllm_mlx.batching.slots.prefix import Prefix
from vllm_mlx.platform import PrefillShapes


@dataclass(eq=False, slots=True)
class PrefillRow:
    """What is computed for one sequence, or for one prefix that several will share.

    Attributes:
        tokens: those to compute, after `base`.
        base: the prefix they go on from.
        target: who gets the result.
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
    def padding(self) -> int:
        return self.length * len(self.rows) - sum(len(row.tokens) for row in self.rows)

    @property
    def held(self) -> int:
        """Tokens of key-value cache that the batch takes, prefixes and padding included."""
        return len(self.rows) * (self.rows[0].start + self.length)

    @property
    def is_done(self) -> bool:
        return bool(self.caches) and self.computed >= self.length

    def advance(self, model: Any, num_layers: int, max_tokens: int) -> int:
        """Compute a piece of at most `max_tokens` tokens, at least one a row; returns its size."""
        if not self.caches:
            columns = self.rows[0].start + self.length
            self.caches = [PromptKVCache(columns, kv) for kv in self._prefixes(num_layers)]
        piece = min(self.length - self.computed, max(1, max_tokens // len(self.rows)))
        if piece == 0:
            return 0
        stop = self.computed + piece
        padded = [_slice(row.tokens, self.computed, stop) for row in self.rows]
        tokens = mx.array(padded)  # the logits are never computed
        if any(row.media for row in self.rows):
            start = self.rows[0].start + self.computed
            model.prefill(tokens, self.caches, [MediaRow(row.media, start) for row in self.rows])
        else:
            model(tokens, cache=self.caches)
        self.computed = stop
        mx.async_eval(self.states)
        return piece * len(self.rows)

    @property
    def states(self) -> list[KeysAndValues]:
        """Keys and values so far, a pair a layer; none if there is nothing to compute."""
        return [cache.state for cache in self.caches] if self.rows[0].end else []

    def select(self, rows: list[int], length: int) -> list[KeysAndValues]:
        """The first `length` keys and values of some rows, a pair a layer."""
        states = self.states
        if len(rows) == len(self.rows):
            return [(keys[:, :, :length], values[:, :, :length]) for keys, values in states]
        index = mx.array(rows)
        return [
            (mx.take(keys[:, :, :length], index, axis=0), mx.take(values[:, :, :length], index, 0))
            for keys, values in states
        ]

    def extract(self, row: int) -> list[KeysAndValues]:
        """What was computed for one row, copied out of the batch."""
        part = slice(row, row + 1), slice(None), slice(self.rows[row].start, self.rows[row].end)
        layers = [
            (mx.contiguous(keys[part]), mx.contiguous(values[part])) for keys, values in self.states
        ]
        mx.eval(layers)
        return layers

    def _prefixes(self, num_layers: int) -> Seq[KeysAndValues | None]:
        bases = [row.base for row in self.rows if row.base]
        if not bases:
            return [None] * num_layers
        return [_gather(bases, layer) for layer in range(num_layers)]


def _slice(tokens: list[int], start: int, stop: int) -> list[int]:
    part = tokens[start:stop]
    return part + [0] * (stop - start - len(part))


def _gather(bases: list[Prefix], layer: int) -> KeysAndValues:
    """The prefixes of a batch's rows as `[B, H, p, D]`."""
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
