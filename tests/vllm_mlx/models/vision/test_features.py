"""The cache of what the vision tower made: by content, computed once, bounded."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from vllm_mlx.batching.prompts.prompt_media import Medium
from vllm_mlx.models.vision import features
from vllm_mlx.models.vision.features import FeatureCache
from vllm_mlx.outputs import MediaInfo

MERGE, WIDTH = 4, 8
EACH = 4 * WIDTH * 4 * 2  # tokens, values, bytes of a float32, merged and deep


def medium(name: str, patches: int = 16) -> Medium:
    """A medium whose patches all have the value of its name."""
    pixels = np.full((patches, WIDTH), ord(name), np.float32)
    return Medium((1, 4, patches // 4), MediaInfo("image", name, 8, 8), lambda: pixels)


class Tower:
    """Takes the mean of those patches that become one token."""

    def __init__(self) -> None:
        self.grids: list[list[list[int]]] = []

    def __call__(self, patches: mx.array, grids: mx.array) -> list[mx.array]:
        self.grids.append(grids.tolist())
        merged = patches.reshape(-1, MERGE, WIDTH).mean(1)
        return [merged, -merged]


@pytest.fixture
def tower() -> Tower:
    return Tower()


def cache_of(tower: Tower, room: float = 100) -> FeatureCache:
    return FeatureCache(tower, MERGE, int(room * EACH))


def test_several_are_computed_at_once_and_each_gets_its_own(tower):
    cache = cache_of(tower)
    found = cache.get([medium("a"), medium("b", 32), medium("a")])
    assert tower.grids == [[[1, 4, 4], [1, 4, 8]]]
    assert {key: each[0].shape[0] for key, each in found.items()} == {"a": 4, "b": 8}
    for name in "ab":
        assert found[name][0][0, 0].item() == ord(name)
        assert found[name][1][-1, -1].item() == -ord(name)
    assert (cache.encoded, cache.nbytes) == (2, 3 * EACH)


def test_the_same_content_is_computed_once(tower):
    cache = cache_of(tower)
    cache.get([medium("a")])
    cache.get([medium("b"), medium("a")])
    assert tower.grids == [[[1, 4, 4]]] * 2
    assert cache.encoded == 2


def test_it_is_bounded_and_the_least_recently_used_goes_first(tower):
    cache = cache_of(tower, 3)
    for name in "abcad":
        cache.get([medium(name)])
        assert cache.nbytes <= 3 * EACH
    assert list(cache._held) == ["c", "a", "d"]
    assert cache.encoded == 4
    cache.get([medium("b")])
    assert cache.encoded == 5


def test_what_one_piece_needs_is_there_even_beyond_the_bound(tower):
    cache = cache_of(tower, 1.5)
    found = cache.get([medium(name) for name in "abc"])
    assert set(found) == set("abc")
    assert cache.nbytes == EACH


def test_the_tower_takes_no_more_patches_at_once_than_it_may(tower, monkeypatch):
    monkeypatch.setattr(features, "MAX_PATCHES", 48)
    cache_of(tower).get([medium("a"), medium("b", 32), medium("c"), medium("d", 64), medium("e")])
    assert [len(grids) for grids in tower.grids] == [2, 1, 1, 1]


def test_what_is_kept_does_not_hold_what_was_computed_beside_it(monkeypatch):
    monkeypatch.setattr(features, "MAX_PATCHES", 1 << 20)

    def encode(patches: mx.array, grids: mx.array) -> list[mx.array]:
        return [patches[::MERGE] + 1]

    cache = FeatureCache(encode, MERGE, 3 << 20)
    big = [
        Medium(
            (1, 4, 4096),
            MediaInfo("image", name, 8, 8),
            lambda: np.zeros((4 * 4096, 64), np.float32),
        )
        for name in "abcdefgh"
    ]
    before = mx.get_active_memory()
    mx.eval(list(cache.get(big).values()))
    assert cache.nbytes <= 3 << 20
    assert mx.get_active_memory() - before < 4 << 20  # not all eight of 1 MiB


def test_clearing_forgets_all(tower):
    cache = cache_of(tower)
    cache.get([medium("a")])
    cache.clear()
    assert cache.nbytes == 0
    cache.get([medium("a")])
    assert cache.encoded == 2
