"""Why a model does not suit slots is told in words that docs/models.md has, too."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_mlx.batching.runners.reason import reason_of
from vllm_mlx.batching.slots.keys_values import PromptKVCache, SlotKVCache
from vllm_mlx.batching.slots.layout import UnsuitableCacheError
from vllm_mlx.batching.slots.positions import PromptPositions
from vllm_mlx.batching.slots.rings import Rings
from vllm_mlx.batching.slots.states import PromptStates, SlotStates

POSITIONS, RINGS = PromptPositions(0), Rings([None], 1, 256)
READS = "it reads the arrays of its caches itself"


@pytest.mark.parametrize(
    "cache",
    [
        PromptKVCache(POSITIONS, 2),
        SlotKVCache(RINGS),
        PromptStates(1, POSITIONS),
        SlotStates(1, RINGS),
    ],
    ids=lambda cache: type(cache).__name__,
)
def test_what_a_model_asks_of_memories_of_slots_is_told_in_plain_words(cache: Any) -> None:
    with pytest.raises(AttributeError) as failed:
        cache.fetch()
    assert reason_of(failed.value) == f"{READS}, by fetch"
    with pytest.raises(TypeError) as failed_call:
        cache()
    assert reason_of(failed_call.value) == READS


def test_other_reasons_are_told_as_they_are() -> None:
    assert reason_of(AttributeError("'Norm' object has no attribute 'x'")) == (
        "AttributeError: 'Norm' object has no attribute 'x'"
    )
    assert reason_of(UnsuitableCacheError("slots have no form for its X")) == (
        "slots have no form for its X"
    )
