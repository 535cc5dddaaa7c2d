"""Grammars are as wide as the model's logits, and end with any of its end tokens."""

from __future__ import annotations

import numpy as np
import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from vllm_mlx.batching.logits.constraint import Grammars, Mask, new_grammars
from vllm_mlx.models import MLXLanguageModel
from vllm_mlx.structured_outputs import StructuredOutputs

SPARE = 77  # rows of a padded embedding, which stand for no token
ENDS = {0, 2, 17}
OUTPUTS = StructuredOutputs.of({"regex": "ab?"})


@pytest.fixture(scope="module")
def made(language_model: MLXLanguageModel) -> Grammars:
    inner = language_model.tokenizer._tokenizer
    return new_grammars(TokenizerWrapper(inner, eos_token_ids=ENDS), len(inner) + SPARE, "m")


def allowed(grammars: Grammars, said: list[int]) -> set[int]:
    matcher = grammars.matcher(OUTPUTS)
    assert matcher.consume_tokens(said)
    mask: Mask = grammars.new_mask(1)
    grammars.fill([(matcher, 0)], mask)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def test_no_token_that_a_padded_model_has_besides(
    made: Grammars, language_model: MLXLanguageModel
) -> None:
    tokens = len(language_model.tokenizer)
    assert made.new_mask(1).shape == (1, -(-(tokens + SPARE) // 32))
    for said in ([], language_model.tokenizer.encode("a", add_special_tokens=False)):
        assert allowed(made, said)
        assert max(allowed(made, said)) < tokens


def test_every_end_token_ends_and_none_does_before(
    made: Grammars, language_model: MLXLanguageModel
) -> None:
    said = language_model.tokenizer.encode("a", add_special_tokens=False)
    assert not allowed(made, []) & ENDS
    assert allowed(made, said) & set(range(18)) == ENDS
