"""A mask of some rows leaves the logits that it is given: their log-probabilities are reported."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from vllm_mlx.batching.logits.masks import make_mask


class NothingAllowed:
    def new_mask(self, rows: int) -> Any:
        return np.zeros((rows, 2), dtype=np.int32)

    def fill(self, rows: Any, mask: Any) -> None:
        """The mask says so already."""


@pytest.mark.parametrize("places", [(1,), (0, 1)])
def test_what_is_given_stays(places: tuple[int, ...]) -> None:
    matcher = object()
    constraint = SimpleNamespace(
        grammars=NothingAllowed(), matcher=matcher, openers=(), check_mask=lambda _: True
    )
    rows: Any = {
        at: SimpleNamespace(constraint=constraint if at in places else None) for at in range(2)
    }
    logits = mx.zeros((2, 64))
    mask = make_mask(rows)
    assert mask is not None
    masked = mask(logits)
    assert mx.isinf(masked).all(axis=-1).tolist() == [at in places for at in range(2)]
    assert not mx.isinf(logits).any().item()
