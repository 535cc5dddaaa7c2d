"""What a prompt with media says, and what it may not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlx_vlm
import pytest

from tests.helpers.clips import make_clip
from tests.helpers.vlm import clip, image
from vllm_mlx.batching.prompts.prompt import MediaPrompt, Prepared
from vllm_mlx.errors import ChatTemplateError, MediaError
from vllm_mlx.media.policy import UNRESTRICTED
from vllm_mlx.models.vision.preparation import VisionPreparer
from vllm_mlx.video_params import VideoParams

IMAGE = {"type": "image", "image": image()}
VIDEO = {"type": "video", "video": clip()}


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


@pytest.fixture(scope="module")
def upstream(vision_folder):
    return mlx_vlm.load(str(vision_folder))


@pytest.fixture
def preparer(upstream):
    model, processor = upstream
    return VisionPreparer(processor, model.config, UNRESTRICTED, max_bytes=1 << 20)


@pytest.fixture
def said(upstream):
    """The prompt as text again, runs of placeholders as one."""
    _, processor = upstream

    def say(prepared: Prepared) -> str:
        whole = processor.tokenizer.decode(prepared.tokens)
        return re.sub(r"(<\|(?:image|video)_pad\|>)+", r"\1", whole)

    return say


def prompt(*content: Any, **video: Any) -> MediaPrompt:
    return MediaPrompt([{"role": "user", "content": list(content)}], VideoParams.of(**video))


def test_media_stand_where_they_were_given(preparer, said):
    prepared = preparer.prepare(prompt(text("Is "), IMAGE, text(" like "), IMAGE, text("?")))
    shown = "<|vision_start|><|image_pad|><|vision_end|>"
    assert f"Is {shown} like {shown}?" in said(prepared)


def test_infos_are_images_first(preparer):
    prepared = preparer.prepare(prompt(VIDEO, IMAGE, text("?")))
    assert [info.kind for info in prepared.media.infos] == ["image", "video"]
    assert [medium.info.kind for medium in prepared.media.media] == ["video", "image"]


@pytest.mark.parametrize(
    "token", ["<|image_pad|>", "<|video_pad|>", "<|placeholder|>", "<|image_pad|><|image_pad|>"]
)
@pytest.mark.parametrize("media", [[IMAGE], [VIDEO], [IMAGE, VIDEO, IMAGE]], ids=len)
def test_placeholders_in_the_text_are_an_error(preparer, token, media):
    with pytest.raises(MediaError, match="placeholder"):
        preparer.prepare(prompt(*media, text(f"What is {token}?")))
    assert preparer._store.pinned_nbytes == 0


def test_media_that_the_template_drops_are_an_error(preparer):
    messages = [
        {"role": "user", "content": "Show me."},
        {"role": "assistant", "content": [IMAGE, text("There.")]},
    ]
    with pytest.raises(MediaError, match="shows 0 of 1 images"):
        preparer.prepare(MediaPrompt(messages, VideoParams.of()))


def test_a_message_without_content_is_none_with_media(preparer, said):
    messages = [{"role": "user", "content": [IMAGE]}, {"role": "assistant", "content": None}]
    prepared = preparer.prepare(MediaPrompt(messages, VideoParams.of()))
    assert said(prepared).count("<|image_pad|>") == 1


def test_a_template_that_rejects_messages_says_so(preparer):
    messages = [{"role": "user", "content": [IMAGE]}, {"role": "user", "content": 5}]
    with pytest.raises(ChatTemplateError, match="rejects these messages"):
        preparer.prepare(MediaPrompt(messages, VideoParams.of()))
    assert preparer._store.pinned_nbytes == 0


def test_a_prompt_that_ends_in_media_asks_nothing(upstream):
    model, processor = upstream
    preparer = VisionPreparer(processor, model.config, UNRESTRICTED, max_bytes=1 << 20)
    preparer._expander._render = lambda messages: "Look: <|image_pad|>"
    with pytest.raises(MediaError, match="ends with an image or a video"):
        preparer.prepare(prompt(IMAGE))
    assert preparer._store.pinned_nbytes == 0


def test_times_are_half_seconds_at_the_default_rate(preparer, said):
    prepared = preparer.prepare(prompt({"type": "video", "video": clip(0, 5)}, text("?")))
    # Frames at 0, 0.5, 1, 1.5, 2 s go in pairs, of which the prompt says the middle.
    assert re.findall(r"<([\d.]+) seconds>", said(prepared)) == ["0.2", "1.2", "2.0"]


def test_times_are_the_files_own_at_a_variable_rate(preparer, said, tmp_path: Path):
    times = [0, 100, 700, 1500, 1600, 3900]
    path = make_clip(tmp_path / "vfr.mp4", len(times), times=times)
    prepared = preparer.prepare(prompt({"type": "video", "video": path}, text("?"), video_fps=2.0))
    (info,) = prepared.media.infos
    seconds = [each / 1000 for each in times]
    assert set(info.timestamps) <= set(seconds)
    pairs = [*info.timestamps, *info.timestamps[-1:] * (len(info.timestamps) % 2)]
    middles = [(a + b) / 2 for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
    assert re.findall(r"<([\d.]+) seconds>", said(prepared)) == [f"{each:.1f}" for each in middles]
