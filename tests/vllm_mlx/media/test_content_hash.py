from __future__ import annotations

import numpy as np

from vllm_mlx.media.store import content_hash

PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def test_the_same_content_has_the_same_hash() -> None:
    assert content_hash(PIXELS) == content_hash(PIXELS.copy())
    turned = np.ascontiguousarray(PIXELS.transpose(1, 0, 2)).transpose(1, 0, 2)
    assert content_hash(turned) == content_hash(PIXELS), "whatever its strides"
    assert int(content_hash(PIXELS), 16) > 0


def test_each_difference_makes_another() -> None:
    changed = PIXELS.copy()
    changed[1, 3, 2] += 1
    arrays = [PIXELS, changed, PIXELS.reshape(4, 2, 3), PIXELS.view(np.int8), PIXELS[:0], PIXELS[0]]
    hashes = [content_hash(each) for each in arrays]

    assert len(set(hashes)) == len(hashes)
