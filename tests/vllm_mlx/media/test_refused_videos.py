"""What is no video, and what is more of one than is allowed."""

from __future__ import annotations

import random
from pathlib import Path

import av
import pytest
from PIL import Image

from tests.helpers.clips import make_clip, make_sound
from tests.helpers.kinds import Make, read
from vllm_mlx.errors import MediaError
from vllm_mlx.media.clip_index import open_video
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.media.pyav_reader import decodable, decoded
from vllm_mlx.media.video import read_video
from vllm_mlx.video_params import VideoParams


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def bad_file(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "sound":
        return make_sound(path)
    if kind == "picture":
        Image.new("RGB", (8, 8)).save(path, "PNG")
        return path
    if kind == "folder":
        path.mkdir()
    if kind == "no-frames":
        with av.open(str(path), "w") as output:
            stream = output.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            output.start_encoding()
    if kind == "index-cut-off":
        data = make_clip(path).read_bytes()
        return written(path, data[: len(data) // 2])
    if kind == "playlist":  # FFmpeg would open what it names
        make_clip(folder / "other.ts")
        return written(path, b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:3,\nother.ts\n")
    contents = {"garbage": random.Random(0).randbytes(5000), "empty": b"", "text": b"hello " * 99}
    return written(path, contents[kind]) if kind in contents else path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("garbage", "FFmpeg can't read it .*encode it as MP4"),
        ("text", "FFmpeg can't read it"),
        ("empty", "FFmpeg can't read it"),
        ("sound", "it has no video, only sound"),
        ("picture", r"it is a still image \(PNG\), not a video; pass it with images="),
        ("folder", "FFmpeg can't read it"),
        ("missing", "FFmpeg can't read it .*No such file"),
        ("no-frames", "no frame of it can be decoded|it has no video"),
        ("index-cut-off", "FFmpeg can't read it .*check that it plays and is whole"),
        ("playlist", "FFmpeg can't read it"),
    ],
)
def test_what_is_no_video_is_an_error_that_helps(kind: str, reason: str, tmp_path: Path) -> None:
    path = bad_file(kind, tmp_path)

    with pytest.raises(MediaError, match=rf"^video clips/a\.mp4: .*({reason})"):
        read(path, name="clips/a.mp4")


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (MediaPolicy(max_pixels=160 * 96 - 1), "160 x 96, allowed are 15359 pixels"),
        (MediaPolicy(max_duration_s=2.5), "3.0 s long, allowed are 2.5"),
        (MediaPolicy(max_frame_bytes=5 * 160 * 96 * 3), "6 frames of 160 x 96 .*video_max_frames"),
    ],
)
def test_what_is_too_much_is_refused(make: Make, policy: MediaPolicy, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        read_video(make("h264.mp4"), VideoParams.of(), policy, name="a.mp4")


def test_a_frame_larger_than_the_header_says_is_refused(make: Make, tmp_path: Path) -> None:
    """The limit holds in the decoder, too."""
    with open_video(make("h264.mp4")) as container:
        frames = decoded(container, decodable(container, 160 * 96 - 1))
        assert not any(whole for _, whole in frames)
