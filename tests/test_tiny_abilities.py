"""The tiny vision model sees: fresh samples, as files, through the public API."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("mlx_vlm")

from examples.tiny_vlm import checkpoint, evaluate

SAMPLES = 50  # `python -m examples.tiny_vlm.evaluate` asks 400


@pytest.mark.parametrize("ability", evaluate.ABILITIES, ids=lambda ability: ability.__name__)
def test_it_answers_word_for_word(ability: evaluate.Ability) -> None:
    wrong = asyncio.run(evaluate.mistakes(checkpoint.FOLDER, ability, SAMPLES, seed=99))

    assert 1 - len(wrong) / SAMPLES >= (evaluate.ABILITIES[ability] or 0.95), wrong[:5]
