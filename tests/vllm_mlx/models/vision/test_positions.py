"""Tokens and their positions are those of mlx-vlm's own processor and `get_rope_index`."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx_vlm
import numpy as np
import pytest
from PIL import Image

from tests.helpers.vlm import KINDS, clip, image, random_vlm
from vllm_mlx.batching.prompts.prompt import MediaPrompt
from vllm_mlx.media.policy import UNRESTRICTED
from vllm_mlx.models.vision.positions import Block, rope_positions
from vllm_mlx.models.vision.preparation import VisionPreparer
from vllm_mlx.video_params import VideoParams

A, B = (lambda: image(1)), (lambda: image(2, 96, 32))
V, W = (lambda: clip(1, 6)), (lambda: clip(2, 3))
PROMPTS: dict[str, list[Any]] = {
    "one image": [A],
    "several images": [A, "then", B, A],
    "one video": [V],
    "several videos": [V, W, "and"],
    "both": ["First", V, A, "next", B, W],
    "text before": ["Look at this: ", A],
}


@pytest.fixture(scope="module", params=KINDS)
def upstream(request, tmp_path_factory):
    folder = random_vlm(tmp_path_factory.mktemp(request.param), request.param)
    return mlx_vlm.load(str(folder))


def messages_with(parts: list[Any]) -> list[dict[str, Any]]:
    """The parts, with an answer and a further question behind them."""
    content = []
    for part in [*parts, "What is it?"]:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        else:
            made = part()
            kind = "video" if isinstance(made, list) else "image"
            content.append({"type": kind, kind: made})
    return [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "A square."},
        {"role": "user", "content": "Sure?"},
    ]


def media_in(messages: list[dict[str, Any]], kind: str) -> list[Any]:
    return [part[kind] for part in messages[0]["content"] if part["type"] == kind]


@pytest.mark.parametrize("parts", PROMPTS.values(), ids=PROMPTS)
def test_tokens_and_positions_are_mlx_vlms(upstream, parts):
    model, processor = upstream
    messages = messages_with(parts)
    preparer = VisionPreparer(processor, model.config, UNRESTRICTED, max_bytes=1 << 20)
    tokens, media = preparer.prepare(MediaPrompt(messages, VideoParams.of()))

    images, videos = media_in(messages, "image"), media_in(messages, "video")
    options: dict[str, Any] = {}
    if videos and model.config.model_type == "qwen3_vl":
        options["video_metadata"] = [
            {"total_num_frames": len(v), "fps": 2.0, "frames_indices": list(range(len(v)))}
            for v in videos
        ]
    expected = processor(
        text=[processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)],
        images=[Image.fromarray(each) for each in images] or None,
        videos=[np.stack(each) for each in videos] or None,
        add_special_tokens=False,
        **options,
    )
    assert tokens == np.array(expected["input_ids"])[0].tolist()

    positions, delta = model.language_model.get_rope_index(
        mx.array([tokens]), expected.get("image_grid_thw"), expected.get("video_grid_thw")
    )
    assert media.positions.tolist() == positions[:, 0].tolist()
    assert media.rope_delta == delta.item()


def test_text_alone_counts_on():
    assert rope_positions(5, []).tolist() == [[0, 1, 2, 3, 4]] * 3


def test_text_goes_on_after_the_longest_side():
    time, height, width = rope_positions(9, [Block(1, 1, 2, 3)]).tolist()
    assert time == [0, 1, 1, 1, 1, 1, 1, 4, 5]
    assert height == [0, 1, 1, 1, 2, 2, 2, 4, 5]
    assert width == [0, 1, 2, 3, 1, 2, 3, 4, 5]


def test_media_may_follow_each_other_at_once():
    time, _, width = rope_positions(5, [Block(0, 1, 1, 2), Block(2, 2, 1, 1)]).tolist()
    assert time == [0, 0, 2, 3, 4]
    assert width == [0, 1, 2, 2, 4]
