"""`VisionLanguageModel`: a Qwen vision model as the packing core steps it.

Shapes: B rows, L tokens, n of them stand for media, D head dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from vllm_mlx.batching.prompts.prompt_media import MediaRow, Medium, MediumPart
from vllm_mlx.models.accelerated import use_fast_forms
from vllm_mlx.models.vision.attention import accelerate_layers, suits
from vllm_mlx.models.vision.features import FEATURE_BYTES, FeatureCache, Features
from vllm_mlx.models.vision.tower import accelerate_tower


class VisionLanguageModel:
    """Text and media in one batch; their features come from a cache by content.

    Args:
        model: mlx-vlm's, of Qwen2-VL, Qwen2.5-VL or Qwen3-VL.
    """

    def __init__(self, model: Any) -> None:
        text = model.language_model
        self.model_type = model.config.model_type
        self._text = text.model
        self._head = (
            text.model.embed_tokens.as_linear if text.args.tie_word_embeddings else text.lm_head
        )
        self._rotary = text.model.layers[0].self_attn.rotary_emb
        self._tower = model.vision_tower
        self.layers = text.model.layers
        merge = model.config.vision_config.spatial_merge_size**2
        self.features = FeatureCache(self._encode, merge, FEATURE_BYTES)

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        """Logits `[B, L, V]` of text `[B, L]`."""
        logits: mx.array = self._head(self._forward(self._text.embed_tokens(tokens), cache))
        return logits

    def prefill(self, tokens: mx.array, cache: list[Any], rows: Sequence[MediaRow]) -> None:
        """Compute prompts `[B, L]` of which some have media into the cache."""
        hidden = self._text.embed_tokens(tokens)
        piece = _PieceMedia(rows, tokens.shape[1])
        features = piece.pick(self.features.get(piece.media))
        if features:
            hidden[piece.at] = features[0].astype(hidden.dtype)
        embeddings = self._rotary(hidden, mx.array(piece.positions))
        self._forward(hidden, cache, embeddings, piece.at, features[1:])

    def forget(self) -> None:
        """Drop what is kept of media."""
        self.features.clear()

    def _forward(
        self,
        hidden: mx.array,
        cache: Any,
        position_embeddings: Any = None,
        at: Any = None,
        deep: Sequence[mx.array] = (),
    ) -> mx.array:
        caches = cache or [None] * len(self.layers)
        mask: Any = "causal"
        if cache:
            mask = cache[0].make_mask(hidden.shape[1], return_array=False, window_size=None)
        for index, (layer, own) in enumerate(zip(self.layers, caches, strict=True)):
            hidden = layer(hidden, mask, own, position_embeddings=position_embeddings)
            if index < len(deep):
                hidden = hidden.at[at].add(deep[index].astype(hidden.dtype))
        normed: mx.array = self._text.norm(hidden)
        return normed

    def _encode(self, patches: mx.array, grids: mx.array) -> Features:
        made = self._tower(patches.astype(self._tower.patch_embed.proj.weight.dtype), grids)
        return [made[0], *made[1]] if isinstance(made, tuple) else [made]


class _PieceMedia:
    """The media among the tokens of a piece of prefill.

    Attributes:
        parts: one for each run of a medium's tokens, row after row.
        at: rows and columns of those tokens, int32 `[n]` each.
        positions: of all tokens, int32 `[3, B, L]`.
    """

    def __init__(self, rows: Sequence[MediaRow], length: int) -> None:
        self.parts: list[MediumPart] = []
        self.positions = np.empty((3, len(rows), length), np.int32)
        where: list[int] = []
        for row, (media, start) in enumerate(rows):
            self.positions[:, row] = np.arange(start, start + length)
            if media is None:
                continue
            given = media.positions[:, start : start + length]
            self.positions[:, row, : given.shape[1]] = given
            parts = list(media.parts(start, start + length))
            where += [row] * sum(part.columns.size for part in parts)
            self.parts += parts
        columns = [part.columns for part in self.parts]
        self.at = mx.array(where), mx.array(np.concatenate(columns) if columns else [])

    @property
    def media(self) -> list[Medium]:
        return [part.medium for part in self.parts]

    def pick(self, features: Mapping[str, Features]) -> list[mx.array]:
        """Return the features of the tokens at `at`, `[n, hidden]` each; none without media."""
        picked = [
            [each[part.first : part.last] for each in features[part.medium.key]]
            for part in self.parts
        ]
        return [mx.concatenate(list(each)) for each in zip(*picked, strict=True)]


def adapt(model: Any) -> VisionLanguageModel | None:
    """mlx-vlm's model for slots; None if it is none of those that they suit."""
    text = getattr(getattr(model, "language_model", None), "model", None)
    layers = getattr(text, "layers", None)
    if text is None or not layers or not suits(layers):
        return None
    adapted = VisionLanguageModel(model)  # asks the attention that is there for its rotation
    accelerate_layers(layers)
    use_fast_forms(text, adapted)
    accelerate_tower(model.vision_tower)
    return adapted
