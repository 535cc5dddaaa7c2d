"""The clips that every frame is checked of, and how they are read."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.clips import Frame, drawn
from vllm_mlx.media.policy import UNRESTRICTED
from vllm_mlx.media.video import VideoClip, read_video
from vllm_mlx.video_params import VideoParams

COUNT, FPS = 90, 30
EVERY: dict[str, Any] = {"fps": 240.0, "most": 4096}
B_FRAMES = {"bf": "3", "g": "24"}
steps = random.Random(0).choices([10, 33, 40, 100, 300], k=COUNT - 1)
UNEVEN = [sum(steps[:n]) for n in range(COUNT)]


def x265(open_gop: int) -> dict[str, str]:
    words = (
        f"log-level=none:pools=1:keyint=24:min-keyint=24:bframes=3:scenecut=0:open-gop={open_gop}"
    )
    return {"x265-params": words}


def turned(quarters: int) -> list[Frame]:
    return [np.rot90(drawn(n), quarters).copy() for n in range(COUNT)]


KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": B_FRAMES},
    "h264-sound.mp4": {"options": B_FRAMES, "audio_s": 4.0},
    "h264.mkv": {"options": B_FRAMES},
    "h264.mov": {"options": B_FRAMES},
    "h264.ts": {"options": B_FRAMES},
    "h264.avi": {"options": B_FRAMES},
    "h264.flv": {"options": B_FRAMES},
    "h264-uneven.mp4": {"options": B_FRAMES, "times": UNEVEN},
    "h264-uneven.mkv": {"options": B_FRAMES, "times": UNEVEN},
    "h264-late.mp4": {"options": B_FRAMES, "times": [2000 + each for each in UNEVEN]},
    "h264-open-gop.mp4": {"options": {**B_FRAMES, "x264-params": "open-gop=1"}},
    "h264-open-gop.ts": {"options": {**B_FRAMES, "x264-params": "open-gop=1"}},
    "h264-intra-refresh.mp4": {"options": {"g": "24", "x264-params": "intra-refresh=1"}},
    "h264-fragments.mp4": {
        "options": B_FRAMES,
        "container": {"movflags": "frag_keyframe+empty_moov"},
    },
    "h264-10-bit.mp4": {"options": B_FRAMES, "pix_fmt": "yuv420p10le"},
    "h264-turned-left.mp4": {"frames": turned(1), "rotation": -90},
    "h264-turned-right.mp4": {"frames": turned(-1), "rotation": 90},
    "h264-upside-down.mp4": {"frames": turned(2), "rotation": 180},
    "hevc-closed-gop.mp4": {"codec": "libx265", "options": x265(0)},
    "hevc-open-gop.mp4": {"codec": "libx265", "options": x265(1)},
    "hevc-open-gop.mkv": {"codec": "libx265", "options": x265(1)},
    "hevc-open-gop.ts": {"codec": "libx265", "options": x265(1)},
    "hevc-10-bit.mp4": {"codec": "libx265", "options": x265(0), "pix_fmt": "yuv420p10le"},
    "vp9.webm": {
        "codec": "libvpx-vp9",
        "options": {"g": "24", "deadline": "realtime", "cpu-used": "8"},
    },
    "vp9-alt-ref.webm": {
        "codec": "libvpx-vp9",
        "options": {"g": "24", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"},
    },
    "av1.mp4": {"codec": "libsvtav1", "options": {"g": "24", "preset": "12", "crf": "20"}},
    "av1.webm": {"codec": "libsvtav1", "options": {"g": "24", "preset": "12", "crf": "20"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "24"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2", "g": "24"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2", "g": "24"}},
}
Make = Callable[[str], Path]


def read(
    path: Path, fps: float = 2.0, most: int = 32, reader: Any = "auto", name: str = "a clip"
) -> VideoClip:
    params = VideoParams(video_fps=fps, video_max_frames=most)
    return read_video(path, params, replace(UNRESTRICTED, video_reader=reader), name=name)
