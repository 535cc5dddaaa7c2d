"""`Sight`: what a vision tower costs to compute."""

from __future__ import annotations

from typing import Any

import mlx.nn as nn


class Sight:
    """The operations of the tower of a model of mlx-vlm."""

    def __init__(self, model: Any) -> None:
        config = model.config.vision_config
        self._patch = config.patch_size
        self._layers = getattr(config, "depth", None) or config.num_hidden_layers
        self._hidden = config.hidden_size
        merge = getattr(config, "spatial_merge_size", 1) ** 2
        self._parameters = sum(
            module.weight.size / (1 if ".layers." in name or name.startswith("blocks.") else merge)
            for name, module in model.vision_tower.named_modules()
            if isinstance(module, nn.Linear)
        )

    def operations(self, inputs: dict[str, Any]) -> float:
        """Additions and multiplications for what a prompt shows, each picture for itself."""
        total = 0.0
        for frames, patches in self._pictures(inputs):
            total += 2 * self._parameters * frames * patches
            total += 4 * self._layers * self._hidden * frames * patches**2
        return total

    def _pictures(self, inputs: dict[str, Any]) -> list[tuple[int, int]]:
        """Return frames, and patches of each."""
        grids = inputs.get("video_grid_thw", inputs.get("image_grid_thw"))
        if grids is not None:
            return [(frames, height * width) for frames, height, width in grids.tolist()]
        images, _, height, width = inputs["pixel_values"].shape
        return [(images, (height // self._patch) * (width // self._patch))]
