"""The tiny vision model was trained on what the real processor writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

pytest.importorskip("mlx_vlm")

import mlx.core as mx

from examples.tiny_vlm import batches, checkpoint, network, scenes
from examples.tiny_vlm.batches import Medium, Row, Writer
from examples.tiny_vlm.questions import Question

TURNS = (
    Question("What is in the image?", "A red circle."),
    Question("In which direction does it move?", "Left."),
)


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    from mlx_vlm import load

    from vllm_mlx import platform

    platform.prepare()
    model, processor = load(str(checkpoint.FOLDER))
    model.set_dtype(mx.float32)
    return model, processor


def row(count: int, size: scenes.Size, text_first: bool) -> Row:
    """Of an image, a clip of so many frames, and an image."""
    rng = np.random.default_rng(count)
    before, after = (
        Medium(scenes.draw(scene, size)[None]) for scene in scenes.random_scenes(rng, 2)
    )
    at = np.linspace(0, 39, count).round()
    frames = scenes.film(scenes.random_motion(rng), at / 39, size)
    clip = Medium(frames, tuple(float(i / 10) for i in at))
    return Row((before, clip, after), TURNS, text_first, "Answer briefly." if text_first else None)


def batch_of(asked: Row, size: scenes.Size) -> batches.Batch:
    """As in training, without the camera's noise."""
    shown = [np.float32(medium.frames / 255) for medium in asked.media]
    doubled = [np.repeat(each, 2, axis=0) if len(each) == 1 else each for each in shown]
    pixels = np.concatenate([batches.patches(each) for each in doubled])
    grid = (size[0] // batches.PATCH, size[1] // batches.PATCH)
    writer = Writer(Tokenizer.from_file(str(checkpoint.FOLDER / "tokenizer.json")))
    return batches.pad([asked], writer, pixels, grid)


def processed(processor: Any, asked: Row) -> Any:
    """The same conversation by the model's own processor."""
    media = [{"type": "image" if medium.times is None else "video"} for medium in asked.media]
    text = {"type": "text", "text": asked.turns[0].question}
    first: Any = [text, *media] if asked.text_first else [*media, text]
    messages: list[Any] = [{"role": "system", "content": asked.system}] if asked.system else []
    for question, answer in asked.turns:
        messages.append({"role": "user", "content": first or question})
        messages.append({"role": "assistant", "content": answer})
        first = None
    clip = next(medium for medium in asked.media if medium.times is not None)
    assert clip.times is not None
    metadata = {"fps": 10, "frames_indices": [round(10 * time) for time in clip.times]}
    return processor(
        text=[processor.apply_chat_template(messages, tokenize=False)],
        images=[Image.fromarray(each.frames[0]) for each in asked.media if each.times is None],
        videos=[clip.frames],
        video_metadata=[metadata],
    )


@pytest.mark.parametrize("text_first", [False, True])
@pytest.mark.parametrize(("count", "size"), [(4, (64, 64)), (7, (48, 80)), (10, (48, 48))])
def test_a_training_row_is_what_the_processor_writes(
    loaded: tuple[Any, Any], count: int, size: scenes.Size, text_first: bool
) -> None:
    model, processor = loaded
    asked = row(count, size, text_first)
    ours, theirs = batch_of(asked, size), processed(processor, asked)
    grids = {name: theirs[name] for name in ("image_grid_thw", "video_grid_thw")}
    positions, _ = model.language_model.get_rope_index(theirs["input_ids"], *grids.values(), None)
    image = ours.grid[0] * ours.grid[1]
    images, video = (np.array(theirs[name]) for name in ("pixel_values", "pixel_values_videos"))
    pixels = np.concatenate([images[:image], video, images[image:]])

    assert np.array(theirs["input_ids"]).tolist() == ours.ids.tolist()
    assert np.array(positions).tolist() == ours.positions.tolist()
    np.testing.assert_allclose(pixels.reshape(ours.pixels.shape), ours.pixels, atol=1e-5)

    logits = model(**{**theirs, "pixel_values": theirs["pixel_values"]}).logits[0]
    np.testing.assert_allclose(
        np.array(logits)[ours.asked], np.array(network.answers(model, ours)), atol=0.05
    )
