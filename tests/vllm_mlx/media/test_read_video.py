"""Every frame that is returned is the frame of its time: read back from the number drawn in it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.helpers.clips import make_clip, numbers_of, shift
from tests.helpers.kinds import COUNT, EVERY, FPS, KINDS, Make, read


def seconds_of(name: str) -> list[float]:
    times = KINDS[name].get("times")
    if times:
        return [(each - times[0]) / 1000 for each in times]
    return [n / FPS for n in range(COUNT)]


def nearest(seconds: list[float], moment: float) -> int:
    return min(range(len(seconds)), key=lambda n: (round(abs(seconds[n] - moment), 5), n))


@pytest.mark.parametrize("reader", ["pyav", "decord"])
@pytest.mark.parametrize("name", KINDS)
def test_every_frame_is_the_frame_of_its_time(make: Make, name: str, reader: Any) -> None:
    seconds = seconds_of(name)

    clip = read(make(name), **EVERY, reader=reader)
    assert not clip.truncated
    assert clip.frames.shape == (COUNT, 96, 160, 3)
    assert numbers_of(clip.frames) == list(range(COUNT))
    assert clip.timestamps == pytest.approx(seconds, abs=0.0011)  # Matroska and FLV: milliseconds
    assert seconds[-1] <= clip.duration_s <= seconds[-1] + 0.4

    wanted = sorted({nearest(seconds, n / 2) for n in range(int(clip.duration_s * 2 + 0.999))})
    few = read(make(name), reader=reader)
    assert numbers_of(few.frames) == wanted
    assert few.timestamps == pytest.approx([seconds[n] for n in wanted], abs=0.0011)

    spread = read(make(name), fps=30.0, most=7, reader=reader)
    wanted = [nearest(seconds, seconds[-1] * n / 6) for n in range(7)]
    assert numbers_of(spread.frames) == wanted
    assert spread.timestamps == pytest.approx([seconds[n] for n in wanted], abs=0.0011)


def test_frames_before_an_edit_list_are_not_shown(make: Make, tmp_path: Path) -> None:
    path = shift(make("h264.mp4"), tmp_path / "cut.mp4", 1000, {})
    with av.open(str(path)) as container:
        first = min(p.pts for p in container.demux(video=0) if p.size)
        assert first < 0, "the clip has no edit list"

    for reader in ("pyav", "decord"):
        clip = read(path, **EVERY, reader=reader)
        assert numbers_of(clip.frames) == list(range(30, COUNT))
        assert clip.timestamps == pytest.approx([n / FPS for n in range(COUNT - 30)], abs=1e-4)


def test_an_animated_gif_is_a_video(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.gif", 40, 10, codec="gif", pix_fmt="rgb8")

    clip = read(path)

    assert numbers_of(clip.frames) == [0, 5, 10, 15, 20, 25, 30, 35]
    assert clip.timestamps == tuple(n / 2 for n in range(8))
    assert clip.duration_s == 4.0


def test_one_frame_is_one_frame(tmp_path: Path) -> None:
    clip = read(make_clip(tmp_path / "one.mp4", 1), fps=240.0)

    assert numbers_of(clip.frames) == [0]
    assert clip.timestamps == (0.0,)


def test_a_clip_shorter_than_the_distance_of_frames_gives_its_first(make: Make) -> None:
    clip = read(make("h264.mp4"), fps=0.1)

    assert numbers_of(clip.frames) == [0]


@pytest.mark.parametrize("width", [16, 24, 32, 48, 64, 66, 96, 144])
def test_narrow_clips_are_not_skewed(tmp_path: Path, width: int) -> None:
    """decord returns rows with their padding in them below 64 pixels, and at 96 and 144."""
    frame = np.zeros((48, width, 3), np.uint8)
    frame[:, width // 2 :, 1] = 255
    path = make_clip(tmp_path / "narrow.mp4", [frame] * 10)

    for reader in ("pyav", "decord"):
        clip = read(path, fps=30.0, reader=reader)
        assert clip.frames.shape == (10, 48, width, 3)
        middle = clip.frames[:, 24, :, 1].astype(int)
        assert middle[:, : width // 2 - 3].max() < 60
        assert middle[:, width // 2 + 3 :].min() > 190


def test_two_threads_read_at_once(make: Make) -> None:
    names = ["h264.mp4", "hevc-open-gop.mp4", "vp9.webm", "h264.mp4"] * 4
    with ThreadPoolExecutor(2) as pool:
        clips = list(pool.map(lambda name: read(make(name), **EVERY), names))

    assert all(numbers_of(clip.frames) == list(range(COUNT)) for clip in clips)
