"""`Decoder`: any architecture of mlx-vlm that embeds its prompts and decodes them as text.

Shapes: B rows, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
from mlx_vlm.models.cache import make_prompt_cache

from vllm_mlx.batching.prompts.prompt import Prepared
from vllm_mlx.batching.prompts.prompt_media import MediaRow, PromptMedia
from vllm_mlx.batching.runners.runner import Runner
from vllm_mlx.models.accelerated import use_fast_forms
from vllm_mlx.models.attention import dispatch_attention, leave_out_masks
from vllm_mlx.models.vision.embedder import Embedder
from vllm_mlx.models.vision.features import FEATURE_BYTES
from vllm_mlx.models.vision.one_by_one import OneByOneModel
from vllm_mlx.models.vision.prompt_embedding import PromptEmbedding
from vllm_mlx.scheduler_config import Bounds


class Decoder:
    """The language model as slots step it; mlx-vlm's own code embeds a prompt with media.

    Language models with M-RoPE keep the positions of one prompt in themselves, so that a second
    one beside it would change them; here each row is told its own.

    Args:
        model: as mlx-vlm loads it.
        trial: makes a prompt with an image, by which the model is tried; None if it takes none.
    """

    def __init__(self, model: Any, trial: Callable[[], Prepared | None]) -> None:
        self._model = model
        self.media_trial = trial
        self._text = model.language_model
        self._is_told_positions = hasattr(self._text, "_rope_deltas")
        self._embedder = Embedder(model, FEATURE_BYTES)
        self._embedding: tuple[PromptMedia, PromptEmbedding] | None = None
        self.model_type = model.config.model_type
        dispatch_attention(self._text)
        leave_out_masks(self._text)
        use_fast_forms(self._text, self)

    @property
    def layers(self) -> Any:
        return self._text.layers

    def make_cache(self) -> list[Any]:
        made: list[Any] = make_prompt_cache(self._text)
        return made

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        """Logits `[B, L, V]` of text `[B, L]`."""
        told = {"position_ids": _positions(cache, *tokens.shape)} if self._is_told_positions else {}
        logits: mx.array = self._text(tokens, cache=cache, **told).logits
        return logits

    def prefill(self, tokens: mx.array, cache: list[Any], rows: Sequence[MediaRow]) -> None:
        """Compute a piece `[1, L]` of a prompt with media into the cache."""
        ((media, start),) = rows
        assert media is not None
        embedding, stop = self._embedded(media), start + tokens.shape[1]
        self._text(tokens, cache=cache, **embedding.piece(start, stop))
        if stop >= embedding.length - 1:
            self._embedding = None

    def forget(self) -> None:
        """Drop what is kept of media."""
        self._embedding = None
        self._embedder.clear()

    def new_alone_runner(self, *, vocab_size: int, bounds: Bounds) -> Runner:
        """Return what steps the model where slots don't suit it."""
        return OneByOneModel(self._model).new_runner(vocab_size=vocab_size, bounds=bounds)

    def _embedded(self, media: PromptMedia) -> PromptEmbedding:
        if self._embedding is None or self._embedding[0] is not media:
            self._embedding = media, self._embedder.embed(media)
            media.positions = self._embedding[1].positions
        return self._embedding[1]


def _positions(cache: Any, B: int, L: int) -> mx.array:
    """Return where tokens of text stand in time, height and width, `[3, B, L]`."""
    offsets = (getattr(each, "offset", None) for each in cache or ())
    offset = next((each for each in offsets if each is not None), 0)
    if isinstance(offset, mx.array) and offset.ndim:
        offset = offset[:, None]
    return mx.broadcast_to(offset + mx.arange(L), (3, B, L))
