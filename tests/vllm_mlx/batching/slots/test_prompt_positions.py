"""What the tokens of a piece of prefill see, and which of them are no padding."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import make_prompt_cache

from tests.helpers.architectures import KINDS
from tests.helpers.decoding import sequence
from tests.helpers.text_folders import new_model
from vllm_mlx.batching.slots.layout import Layout
from vllm_mlx.batching.slots.positions import PromptPositions
from vllm_mlx.batching.slots.prefill import PrefillBatch
from vllm_mlx.batching.slots.prefill_row import PrefillRow


@given(
    offset=st.integers(0, 12),
    length=st.integers(1, 9),
    window=st.none() | st.integers(1, 20),
    data=st.data(),
)
def test_masks_are_those_of_mlx_lm(offset, length, window, data):
    base = data.draw(st.integers(0, offset))
    positions = PromptPositions(base)
    positions.move_to(offset, None)
    mask = positions.mask(length, window, base, return_array=True)
    expected = create_causal_mask(length, offset, window_size=window)
    assert mask.tolist() == expected[:, base:].tolist()
    assert positions.is_mask(mask, length, window, base)
    if (implied := positions.mask(length, window, base)) is not mask:
        assert implied == ("causal" if length > 1 else None)
        assert window is None or offset + length <= window


class Recording:
    """A model that notes what the rows of each piece are told of their own tokens."""

    def __init__(self, model):
        self._model = model
        self.told = []

    def __call__(self, tokens, cache):
        L = tokens.shape[1]
        self.told.append((L, cache[0].lengths.tolist(), cache[0].make_mask(L).tolist()))
        return self._model(tokens, cache=cache)


def test_rows_know_their_own_tokens_of_each_piece():
    model = Recording(new_model(KINDS["states"]))
    layout = Layout.of(make_prompt_cache(model._model))
    rows = [PrefillRow([1] * size, None, sequence("x", [1] * size, 1)) for size in (10, 6, 3)]
    batch = PrefillBatch(rows, 10)
    while not batch.is_done:
        batch.advance(model, layout, 12)
    sizes, lengths, own = zip(*model.told, strict=True)
    assert sizes == (4, 4, 2)
    assert lengths == ([4, 4, 3], [4, 2, -1], [2, -2, -5])
    assert own[1] == [[True] * 4, [True] * 2 + [False] * 2, [False] * 4]
