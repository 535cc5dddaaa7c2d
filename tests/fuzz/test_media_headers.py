"""Images and videos with some bytes changed: pixels, or a `MediaError`."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.clips import make_clip
from tests.helpers.strategies import cases, changed, only
from vllm_mlx.errors import MediaError
from vllm_mlx.media.image import read_image
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.media.source import opened
from vllm_mlx.media.video import read_video
from vllm_mlx.video_params import VideoParams

POLICY = MediaPolicy(max_pixels=1_000_000, max_frame_bytes=1 << 24, max_bytes=1 << 20)
PIXELS = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
HEADER = 200  # bytes at the front are changed more often than others
FORMATS = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]
CLIPS = {"a.mp4": {}, "a.mkv": {}, "a.avi": {"codec": "mpeg4"}}


def written(format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format)
    return file.getvalue()


IMAGES = {format: written(format) for format in FORMATS}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clips")
    frames = [PIXELS.repeat(4, 0).repeat(4, 1)] * 6
    return {
        name: make_clip(folder / name, frames, **options).read_bytes()
        for name, options in CLIPS.items()
    }


@st.composite
def damaged(draw: st.DrawFn, base: bytes) -> bytes:
    """Changed anywhere, or in its header alone."""
    if draw(st.booleans()):
        return draw(changed(base))
    return draw(changed(base[:HEADER])) + base[HEADER:]


@cases(0.1)
@given(data=st.data())
def test_images(data: st.DataObject) -> None:
    raw = data.draw(st.sampled_from(FORMATS).flatmap(lambda format: damaged(IMAGES[format])))
    with only(MediaError, "image a.png: "):
        image = read_image(io.BytesIO(raw), POLICY, name="a.png")
        assert image.mode == "RGB"
        assert image.width * image.height <= POLICY.max_pixels


@cases(0.05)
@given(data=st.data())
def test_videos(
    clips: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(clips)))
    path: Path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data.draw(damaged(clips[name])))
    with only(MediaError, "video a.mp4: "):
        clip = read_video(
            path, VideoParams(video_fps=8.0, video_max_frames=8), POLICY, name="a.mp4"
        )
        assert len(clip.frames) == len(clip.timestamps) > 0


@cases(0.05)
@given(
    text=st.text(max_size=60)
    | st.binary(max_size=60).map(
        lambda raw: "data:image/png;base64," + base64.b64encode(raw).decode()
    )
    | st.sampled_from(["http://", "https://a@b/", "file://", "data:", "//", "s3://"]).flatmap(
        lambda scheme: st.text(max_size=30).map(lambda rest: scheme + rest)
    )
)
def test_sources(text: str) -> None:
    with only(MediaError), opened(text, MediaPolicy()) as file:
        read_image(file.path, POLICY, name=file.name)
