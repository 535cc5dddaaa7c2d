"""`Embedder`: prompts with media as mlx-vlm embeds them, each set of media seen once.

What an architecture makes of pixels ends as embeddings in the places of some tokens. These are kept
by content; the next prompt with the same media gets them in the places of its own.

Shapes: n tokens of the prompt, m of them stand for media, D head dimension.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from vllm_mlx import platform
from vllm_mlx.batching.prompts.prompt_media import PromptMedia
from vllm_mlx.models.vision.prompt_embedding import DEEP, EMBEDS, PER_LAYER, PromptEmbedding

logger = logging.getLogger(__name__)

_PIXELS = ("pixel_values", "pixel_values_videos")
_WHOLE_MASK = "attention_mask_4d"
"""What only prompts that are computed whole take."""


class _Seen(NamedTuple):
    """What media became: `[m, D]` in the places of their tokens, and what later layers add."""

    features: mx.array
    deep: list[mx.array] | None

    @property
    def nbytes(self) -> int:
        return self.features.nbytes + sum(each.nbytes for each in self.deep or ())


class Embedder:
    """Cache of what media become, by their content.

    Args:
        model: as mlx-vlm loads it.
        max_bytes: most that is kept; the least recently used go first.

    Attributes:
        encoded: how many prompts went through the vision tower.
    """

    def __init__(self, model: Any, max_bytes: int) -> None:
        self._model = model
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[str, ...], _Seen] = OrderedDict()
        self._nbytes = 0
        self._keeps: bool | None = None  # unknown until a first prompt shows it
        self._needs_pixels = True
        self._dtype: mx.Dtype | None = None  # of text
        self.encoded = 0

    def clear(self) -> None:
        """Drop what media became."""
        self._kept.clear()
        self._nbytes = 0

    def embed(self, media: PromptMedia) -> PromptEmbedding:
        """Return a prompt's embedding."""
        assert media.inputs is not None
        inputs, key = media.inputs(), media.contents
        places = mx.array(np.concatenate(media.places))
        seen = self._kept.get(key)
        if seen is not None and seen.features.shape[0] == places.size:
            self._kept.move_to_end(key)
            return self._from_seen(inputs, places, seen, whole=media.whole)
        made = PromptEmbedding.of(self._model, inputs)
        self.encoded += 1
        if self._keeps is None:
            self._look(inputs, made, places)
        if self._dtype is not None:  # in another one its keys and values would need more room
            made.by_name[EMBEDS] = made.by_name[EMBEDS].astype(self._dtype)
        if self._keeps:
            self._keep(key, made, places)
        return made

    def _from_seen(
        self, inputs: Mapping[str, Any], places: mx.array, seen: _Seen, *, whole: bool
    ) -> PromptEmbedding:
        plain = PromptEmbedding.of(self._model, _without_pixels(inputs))
        embeds = plain.by_name[EMBEDS]
        embeds[0, places] = seen.features
        if not (self._needs_pixels or whole):
            return plain
        # What depends on the vision tower is replaced, so that it is never computed.
        made = PromptEmbedding.of(self._model, inputs)
        made.by_name[EMBEDS] = embeds
        if seen.deep is not None:
            made.by_name[DEEP] = seen.deep
        return made

    def _look(self, inputs: Mapping[str, Any], made: PromptEmbedding, places: mx.array) -> None:
        """Find out whether media change embeddings in the places of their tokens only."""
        self._keeps = False
        try:
            plain = PromptEmbedding.of(self._model, _without_pixels(inputs)).by_name
        except Exception as error:  # whatever an architecture does without its pixels
            if platform.is_device_failure(error):
                raise
            logger.info("what media become is not kept: %s: %s", type(error).__name__, error)
            return
        self._dtype = plain[EMBEDS].dtype
        names = [name for name in (EMBEDS, PER_LAYER) if name in made.by_name or name in plain]
        pairs: list[Any] = [(made.by_name.get(name), plain.get(name)) for name in names]
        if any(one is None or other is None or one.shape != other.shape for one, other in pairs):
            return
        one, other = (mx.array(each) for each in pairs[0])
        one[0, places] = other[0, places] = 0
        alike = [mx.array_equal(*each) for each in [(one, other), *pairs[1:]]]
        self._keeps = bool(mx.all(mx.stack(alike)).item())
        more = set(made.by_name) - set(plain) - {_WHOLE_MASK}
        self._needs_pixels = bool(more) or "position_ids" in plain

    def _keep(self, key: tuple[str, ...], made: PromptEmbedding, places: mx.array) -> None:
        features = made.by_name[EMBEDS][0, places]
        deep = made.by_name.get(DEEP)
        seen = _Seen(features, None if deep is None else list(deep))
        mx.async_eval(seen.features, seen.deep or [])
        if before := self._kept.pop(key, None):
            self._nbytes -= before.nbytes
        self._kept[key] = seen
        self._nbytes += seen.nbytes
        while len(self._kept) > 1 and self._nbytes > self._max_bytes:
            _, evicted = self._kept.popitem(last=False)
            self._nbytes -= evicted.nbytes


def _without_pixels(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in _PIXELS}
