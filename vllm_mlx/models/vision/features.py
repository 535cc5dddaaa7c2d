"""`FeatureCache`: what the vision tower made of images and videos, by their content."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from vllm_mlx.batching.prompts.prompt_media import Medium

MAX_PATCHES = 16_384
"""Most patches of several media that the tower takes at once."""
FEATURE_BYTES = 2 << 30
"""Most that is kept of what media became."""


Features = Sequence[mx.array]
"""What stands for the tokens of media, `[m, hidden]` each: first what is in place of their
embeddings, then what is added after the first layers (Qwen3-VL's DeepStack)."""

Encode = Callable[[mx.array, mx.array], Features]
"""From patches `[p, values]` and grids `[media, 3]` to features."""


class FeatureCache:
    """Cache of features by content hash, computed once and kept while they fit.

    Args:
        merge: patches that become one token.
        max_bytes: most that is kept; the least recently used go first.

    Attributes:
        nbytes: of all that is kept.
        encoded: how many media were computed.
    """

    def __init__(self, encode: Encode, merge: int, max_bytes: int) -> None:
        self._encode = encode
        self._merge = merge
        self._max_bytes = max_bytes
        self._held: OrderedDict[str, Features] = OrderedDict()
        self.nbytes = 0
        self.encoded = 0

    def clear(self) -> None:
        """Drop all features."""
        self._held.clear()
        self.nbytes = 0

    def get(self, media: Sequence[Medium]) -> dict[str, Features]:
        """Return the features of media by key; missing ones are computed, several at once."""
        wanted = {medium.key: medium for medium in media}
        found = {key: self._held[key] for key in wanted if key in self._held}
        missing = [medium for key, medium in wanted.items() if key not in found]
        for group in _groups(missing):
            found |= self._compute(group)
        for key in wanted:
            if key not in self._held:
                self._held[key] = found[key]
                self.nbytes += _nbytes(found[key])
            self._held.move_to_end(key)
        while len(self._held) > 1 and self.nbytes > self._max_bytes:
            _, evicted = self._held.popitem(last=False)
            self.nbytes -= _nbytes(evicted)
        return found

    def _compute(self, media: list[Medium]) -> dict[str, Features]:
        patches = np.concatenate([medium.patches() for medium in media])
        grids = mx.array([medium.grid for medium in media])
        features = self._encode(mx.array(patches), grids)
        self.encoded += len(media)
        found: dict[str, Features] = {}
        first = 0
        for medium in media:
            tokens = slice(first, first := first + math.prod(medium.grid) // self._merge)
            # Copies: a slice would hold all that was computed beside it.
            found[medium.key] = [mx.contiguous(each[tokens]) for each in features]
            mx.async_eval(found[medium.key])
        return found


def _nbytes(features: Features) -> int:
    return sum(each.nbytes for each in features)


def _groups(media: list[Medium]) -> list[list[Medium]]:
    groups: list[list[Medium]] = []
    room = 0
    for medium in media:
        if math.prod(medium.grid) > room:
            groups.append([])
            room = MAX_PATCHES
        groups[-1].append(medium)
        room -= math.prod(medium.grid)
    return groups
