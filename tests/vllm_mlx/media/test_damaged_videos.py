"""Of a file that is cut or damaged what is left is read, each frame at its time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest

from tests.helpers.clips import make_clip, numbers_of
from tests.helpers.kinds import B_FRAMES, COUNT, EVERY, FPS, Make, read


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("mp4", {"movflags": "faststart"}),
        ("mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("mkv", {}),
        ("flv", {}),
        ("avi", {}),
    ],
)
@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_half_a_file_gives_its_frames(
    tmp_path: Path, suffix: str, options: dict[str, str], reader: Any
) -> None:
    sound = 0.0 if suffix == "avi" else 3.0  # there it would all stand before the pictures
    path = make_clip(
        tmp_path / f"half.{suffix}", options=B_FRAMES, container=options, audio_s=sound
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])

    clip = read(path, **EVERY, reader=reader)

    assert clip.truncated
    assert 5 < len(clip.frames) < COUNT
    assert numbers_of(clip.frames) == [round(each * FPS) for each in clip.timestamps]
    assert clip.duration_s < COUNT / FPS - 0.5


def test_half_a_transport_stream_gives_its_frames(make: Make, tmp_path: Path) -> None:
    """Nothing in it says how long it was."""
    path = tmp_path / "half.ts"
    data = make("h264.ts").read_bytes()
    path.write_bytes(data[: len(data) // 2])

    clip = read(path, **EVERY)

    assert 5 < len(clip.frames) < COUNT
    assert numbers_of(clip.frames) == [round(each * FPS) for each in clip.timestamps]


def test_a_recording_that_begins_within_a_gop(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "tail.ts"
    data = make("mpeg2.ts").read_bytes()
    path.write_bytes(data[len(data) // 188 // 3 * 188 :])

    clip = read(path, **EVERY)

    numbers = numbers_of(clip.frames)
    assert 24 < len(numbers) < 70
    assert numbers[-1] == COUNT - 1
    shown = [round(each * FPS) + numbers[0] for each in clip.timestamps]
    assert numbers == shown


@pytest.mark.parametrize(
    "name",
    ["h264.mp4", "h264.mkv", "hevc-closed-gop.mp4", "hevc-open-gop.mp4", "vp9.webm", "av1.mp4"],
)
def test_a_hole_in_the_middle_moves_no_other_frame(make: Make, name: str, tmp_path: Path) -> None:
    """decord counts frames: after one that gives no picture, all are off by one."""
    with av.open(str(make(name))) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    hole = next(p for p in packets[COUNT // 2 :] if not p.is_keyframe)
    data = bytearray(make(name).read_bytes())
    data[hole.pos : hole.pos + hole.size] = bytes(hole.size)
    path = tmp_path / name
    path.write_bytes(data)

    clip = read(path, **EVERY)

    numbers = numbers_of(clip.frames)
    assert COUNT // 2 <= len(numbers) < COUNT
    assert numbers == [round(each * FPS) for each in clip.timestamps]

    few = read(path, fps=7.0)
    assert numbers_of(few.frames) == [round(each * FPS) for each in few.timestamps]
