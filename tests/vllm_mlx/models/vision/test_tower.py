"""Our attention in the vision towers computes what mlx-vlm's does."""

from __future__ import annotations

import mlx.core as mx
import mlx_vlm
import numpy as np
import pytest

from tests.helpers.vlm import KINDS, random_vlm
from vllm_mlx.models.vision.tower import SegmentedAttention, accelerate_tower

GRIDS = {
    "one frame": [[1, 6, 8]],
    "frames": [[3, 4, 4]],
    "several of different sizes": [[1, 6, 8], [1, 4, 10], [2, 6, 4], [1, 6, 8]],
    "whole windows": [[1, 4, 4], [2, 8, 4]],
    "one window": [[1, 2, 2]],
}


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_mlx_vlms(kind, grids, tmp_path):
    model, _ = mlx_vlm.load(str(random_vlm(tmp_path, kind)))
    model.set_dtype(mx.float32)
    count = sum(np.prod(grid) for grid in grids)
    patches = mx.random.normal((int(count), 3 * 2 * 8 * 8), key=mx.random.key(1))

    def features() -> list[np.ndarray]:
        made = model.vision_tower(patches, mx.array(grids))
        merged, deep = made if isinstance(made, tuple) else (made, [])
        return [np.array(each) for each in (merged, *deep)]

    expected = features()
    accelerate_tower(model.vision_tower)
    assert all(type(each.attn) is SegmentedAttention for each in model.vision_tower.blocks)
    for ours, theirs in zip(features(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
