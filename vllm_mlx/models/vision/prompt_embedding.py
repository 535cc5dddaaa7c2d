"""`PromptEmbedding`: a prompt with media as mlx-vlm hands it to the language model behind them.

Shapes: n tokens of the prompt, m of them stand for media, D head dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

EMBEDS, PER_LAYER, DEEP = "inputs_embeds", "per_layer_inputs", "deepstack_visual_embeds"
_BY_TOKEN = {
    EMBEDS: 1,
    PER_LAYER: 1,
    "visual_pos_masks": 1,
    "mm_token_type_ids": 1,
    "token_type_ids": 1,
    "attention_mask": 1,
    "position_ids": -1,
}
"""What has a value for each token, and on which axis."""
_KEPT_BY_MODEL = ("rope_deltas",)
"""What a language model would keep in itself for the tokens to come."""


class PromptEmbedding:
    """The prompt's embeddings, and whatever its architecture has besides.

    Args:
        by_name: what the language model takes.
    """

    def __init__(self, by_name: dict[str, Any], length: int) -> None:
        self.by_name = by_name
        self.length = length
        if by_name[EMBEDS].shape[1] != length:
            raise ValueError("its media take more or fewer places than tokens stand for them")

    @classmethod
    def of(cls, model: Any, inputs: Mapping[str, Any]) -> PromptEmbedding:
        """Have a model of mlx-vlm embed what its processor made of a prompt."""
        given = dict(inputs)
        tokens = given.pop("input_ids")
        pixels, mask = given.pop("pixel_values", None), given.pop("attention_mask", None)
        made = model.get_input_embeddings(tokens, pixels, mask=mask, **given).to_dict()
        by_name = {
            name: value
            for name, value in {**given, **made, **_positions(model, made)}.items()
            if value is not None and name not in _KEPT_BY_MODEL
        }
        return cls(by_name, tokens.shape[1])

    @property
    def positions(self) -> npt.NDArray[np.int32]:
        """Where the tokens stand in time, height and width, `[3, n]`."""
        given = self.by_name.get("position_ids")
        if given is None:
            given = mx.arange(self.length)
        array = np.array(given, dtype=np.int32).reshape(-1, self.length)
        return np.broadcast_to(array, (3, self.length))

    def piece(self, start: int, stop: int) -> dict[str, Any]:
        """Return what the language model takes of the tokens `[start:stop]`."""
        found = dict(self.by_name)
        for name, axis in _BY_TOKEN.items():
            value = found.get(name)
            if isinstance(value, mx.array) and value.shape[axis] == self.length:
                found[name] = value[..., start:stop] if axis < 0 else value[:, start:stop]
        deep = found.get(DEEP)
        if deep is not None and "visual_pos_masks" in found:
            seen = np.array(self.by_name["visual_pos_masks"]).reshape(-1)
            first, last = int(seen[:start].sum()), int(seen[:stop].sum())
            found[DEEP] = [each[first:last] for each in deep]
        return found


def _positions(model: Any, made: Mapping[str, Any]) -> dict[str, Any]:
    """Take from the language model what it keeps of the prompt's positions."""
    text = model.language_model
    if not hasattr(text, "_rope_deltas"):
        return {}
    kept = made.get("position_ids")
    if kept is None:
        kept = text._position_ids
    text._position_ids = text._rope_deltas = None
    return {"position_ids": kept}
