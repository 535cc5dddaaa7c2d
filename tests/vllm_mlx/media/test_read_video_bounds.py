"""In processes of their own: how much memory a long clip takes, and what broken files do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import pytest

from tests.helpers.clips import drawn, make_clip

ROOT = Path(__file__).parents[3]
MINUTES, FPS = 10, 2
MOST = 0.7e9

MEASURE = """
import json, re, sys
from pathlib import Path
from tests.helpers.clips import numbers_of
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.media.video import read_video
from vllm_mlx.video_params import VideoParams
import decord

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

before = peak()
policy = MediaPolicy(video_reader=sys.argv[2])
clip = read_video(Path(sys.argv[1]), VideoParams.of(), policy, name="long.mp4")
taken = peak() - before
numbers = numbers_of(clip.frames)
print(json.dumps([taken, numbers, clip.timestamps, clip.duration_s]))
"""

FUZZ = """
import random, sys
from pathlib import Path
from vllm_mlx.errors import MediaError
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.media.video import VideoClip, read_video
from vllm_mlx.video_params import VideoParams

read, rest = 0, random.Random(5)
files = [Path(name) for name in sys.argv[2:]]
policy = MediaPolicy(max_pixels=1 << 20, max_frame_bytes=1 << 26, max_duration_s=60.0)
for trial in range(200):
    source = files[trial % len(files)]
    data = bytearray(source.read_bytes())
    for _ in range(rest.choice([1, 4, 30])):
        at = rest.randrange(len(data) if rest.random() < 0.6 else min(len(data), 1500))
        data[at] = rest.randrange(256)
    if rest.random() < 0.3:
        del data[rest.randrange(len(data)) :]
    path = Path(sys.argv[1], f"{trial}{source.suffix}")
    path.write_bytes(data)
    try:
        params = VideoParams(video_fps=30.0, video_max_frames=16)
        clip = read_video(path, params, policy, name=path.name)
    except MediaError:
        continue
    read += 1
    assert isinstance(clip, VideoClip) and len(clip.frames) == len(clip.timestamps) > 0
    assert list(clip.timestamps) == sorted(set(clip.timestamps))
print(read)
"""


def run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten minutes of 1080p with the number of each frame in it, drawn where it is stored."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    width, height = 1920, 1080
    plane = av.VideoFrame.from_ndarray(drawn(0, width, height), "rgb24").reformat(format="yuv420p")
    pixels = plane.to_ndarray()
    strip, size = height // 6, width // 8
    half = (height - strip) // 2
    with av.open(str(path), "w") as output:
        options = {"preset": "ultrafast", "g": "30", "crf": "30", "threads": "2"}
        stream = output.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(MINUTES * 60 * FPS):
            for bit in range(16):
                row, column = divmod(bit, 8)
                top = strip + row * half
                block = pixels[top : top + half, column * size : (column + 1) * size]
                block[:] = 235 if number >> bit & 1 else 16
            frame = av.VideoFrame.from_ndarray(pixels, "yuv420p")
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the peak from")
@pytest.mark.parametrize("reader", [pytest.param("pyav", marks=pytest.mark.slow), "decord"])
def test_ten_minutes_of_1080p_fit_into_memory(long_clip: Path, reader: str) -> None:
    result = run(MEASURE, str(long_clip), reader)
    assert result.returncode == 0, result.stderr
    taken, numbers, timestamps, duration = json.loads(result.stdout)

    assert taken < MOST, f"{taken / 1e9:.2f} GB"
    assert duration == MINUTES * 60.0
    assert len(numbers) == 32
    assert numbers == [round(each * FPS) for each in timestamps]
    assert (numbers[0], numbers[-1]) == (0, MINUTES * 60 * FPS - 1)


def test_broken_files_are_clips_or_errors_and_never_a_crash(tmp_path: Path) -> None:
    files = [
        make_clip(tmp_path / "a.mp4", 24, options={"bf": "2", "g": "8"}),
        make_clip(tmp_path / "b.mkv", 24, options={"bf": "2", "g": "8"}),
        make_clip(tmp_path / "c.ts", 24, options={"bf": "2", "g": "8"}),
        make_clip(tmp_path / "d.webm", 24, codec="libvpx-vp9", options={"cpu-used": "8"}),
        make_clip(tmp_path / "e.gif", 24, 10, codec="gif", pix_fmt="rgb8"),
        make_clip(tmp_path / "f.avi", 24, codec="mpeg4", options={"bf": "2", "g": "8"}),
        make_clip(
            tmp_path / "g.mp4", 24, codec="libx265", options={"x265-params": "log-level=none"}
        ),
    ]

    result = run(FUZZ, str(tmp_path), *map(str, files))

    assert result.returncode == 0, result.stderr
    assert not result.stderr
    assert int(result.stdout) > 80
