"""The tiny vision model sees: fresh samples, as files, through the public API."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("mlx_vlm")

from examples.tiny_vlm import checkpoint, evaluate
from tests.helpers.sizes import sizes


@pytest.mark.parametrize("samples", sizes(50, 100))  # `python -m …tiny_vlm.evaluate` asks 400
@pytest.mark.parametrize("ability", evaluate.ABILITIES, ids=lambda ability: ability.__name__)
def test_it_answers_word_for_word(ability: evaluate.Ability, samples: int) -> None:
    wrong = asyncio.run(evaluate.mistakes(checkpoint.FOLDER, ability, samples, seed=99))

    assert 1 - len(wrong) / samples >= (evaluate.ABILITIES[ability] or 0.95), wrong[:5]
