"""The flagship: rows with images and videos answer in a batch what they answer alone."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
from PIL import Image

from tests.helpers.vlm import KINDS, Sequential, random_vlm
from vllm_mlx.engine import BatchedEngine

SIZES = [(48, 48), (64, 48), (48, 80), (64, 64)]
SHOWN = [(), ("image",), ("image", "image", "image"), ("video",), ("video", "image")]
ASKED = ["What is it?", "Which came first?", "What color is the circle?", "Describe this."]


def pixels(rng: np.random.Generator) -> np.ndarray:
    width, height = SIZES[rng.integers(len(SIZES))]
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def medium(kind: str, rng: np.random.Generator):
    first = pixels(rng)
    if kind == "image":
        return Image.fromarray(first)
    count = int(rng.integers(2, 7))
    return [Image.fromarray(np.roll(first, 5 * at, axis=1)) for at in range(count)]


def rows(count: int, shown) -> list[tuple[list[dict], int]]:
    rng, choose = np.random.default_rng(7), random.Random(7)
    made = []
    for at in range(count):
        parts = [{"type": kind, kind: medium(kind, rng)} for kind in shown[at % len(shown)]]
        made.append(([*parts, {"type": "text", "text": choose.choice(ASKED)}], 3 + at * 7 % 20))
    choose.shuffle(made)
    return made


async def batched(folder, asked, width: int, **bounds) -> tuple[list[list[int]], int]:
    """The tokens of all rows, asked at once, and the prompt tokens that they shared."""
    async with BatchedEngine(str(folder), max_num_seqs=width, **bounds) as engine:
        outputs = await asyncio.gather(
            *(
                engine.chat(
                    [{"role": "user", "content": content}],
                    max_tokens=most,
                    temperature=0,
                    logprobs=0,
                )
                for content, most in asked
            )
        )
        return [[entry.token_id for entry in each.logprobs] for each in outputs], (
            engine.stats.cached_tokens
        )


async def test_sixty_rows_of_text_images_and_videos(tmp_path):
    folder = random_vlm(tmp_path)
    alone = Sequential(folder)
    asked = rows(60, SHOWN)
    expected = [alone.generate(*each) for each in asked]
    for width, most in ((8, 512), (5, 24)):
        tokens, _ = await batched(folder, asked, width, max_num_batched_tokens=most)
        assert tokens == expected


@pytest.mark.parametrize("kind", KINDS)
async def test_each_architecture(tmp_path, kind):
    """mlx-vlm's Qwen2 models can't mix images and videos in a prompt."""
    folder = random_vlm(tmp_path, kind, seed=1)
    alone = Sequential(folder)
    asked = rows(12, SHOWN[:4])
    tokens, _ = await batched(folder, asked, 4)
    assert tokens == [alone.generate(*each) for each in asked]


async def test_questions_about_one_video_share_its_prompt(tmp_path):
    folder = random_vlm(tmp_path)
    alone = Sequential(folder)
    clips = [medium("video", np.random.default_rng(seed)) for seed in range(3)]
    asked = [
        ([{"type": "video", "video": clip}, {"type": "text", "text": text}], 6)
        for clip in clips
        for text in ASKED
    ]
    tokens, cached = await batched(folder, asked, 12)
    assert tokens == [alone.generate(*each) for each in asked]
    shortest = min(alone.inputs(content)["input_ids"].shape[1] for content, _ in asked)
    assert cached > 9 * (shortest - 40)  # all but the first question of each clip


async def test_different_media_behind_the_same_text_differ(tmp_path):
    folder = random_vlm(tmp_path)
    alone = Sequential(folder)
    rng = np.random.default_rng(3)
    images = [Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)) for _ in range(2)]
    ask, end = {"type": "text", "text": ASKED[0] * 9}, {"type": "text", "text": "?"}
    asked = [([ask, {"type": "image", "image": image}, end], 8) for image in images]
    tokens, _ = await batched(folder, asked, 2)
    expected = [alone.generate(*each) for each in asked]
    assert expected[0] != expected[1]
    assert tokens == expected
