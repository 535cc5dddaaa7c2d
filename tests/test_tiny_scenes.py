"""The scenes that the tiny vision model learns from show what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples.tiny_vlm import questions, scenes
from examples.tiny_vlm.scenes import COLORS, DIRECTIONS, Events, Frame, Motion


def place(frame: Frame, color: str) -> tuple[float, float] | None:
    """Where the middle of what has this color is, x and y; None if nothing has."""
    ys, xs = np.nonzero(np.abs(frame - np.float32(COLORS[color])).max(axis=2) < 10)
    return (float(xs.mean()), float(ys.mean())) if len(xs) else None


@pytest.mark.parametrize("seed", range(8))
def test_a_picture_holds_its_things_from_left_to_right(seed: int) -> None:
    frame, scene = scenes.draw_image(np.random.default_rng(seed))
    found = [place(frame, thing.color) for thing in scene.things]
    assert [x for x, _ in filter(None, found)] == pytest.approx(
        [64 * thing.x for thing in scene.things], abs=2
    )
    others = COLORS.keys() - {thing.color for thing in scene.things}
    assert not any(place(frame, color) for color in others)


@pytest.mark.parametrize("seed", range(8))
def test_a_thing_moves_where_the_answer_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames, motion = scenes.moving_clip(rng)
    start, end = (place(frames[i], motion.thing.color) for i in (0, -1))
    assert start is not None
    assert end is not None
    way = np.subtract(end, start)
    assert tuple(np.sign(np.round(way / 64, 1)).astype(int)) == DIRECTIONS[motion.direction]
    assert questions.direction(rng, motion).answer.endswith(f" moves {motion.direction}.")


@pytest.mark.parametrize("seed", range(8))
def test_four_frames_tell_which_event_came_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames, events = scenes.event_clip(rng)
    colors = [events.first.color, events.second.color]
    for chosen in (frames[[0, 8, 16, 24]], frames[[0, 10, 21, 31]]):
        seen = [[place(frame, color) is not None for frame in chosen] for color in colors]
        assert seen[0].index(True) < seen[1].index(True)
    assert events.first.shape in questions.first_event(rng, events).answer


def test_the_same_seed_draws_the_same() -> None:
    for make in (scenes.draw_image, scenes.moving_clip, scenes.event_clip):
        (frames, facts), (again, same) = (make(np.random.default_rng(5)) for _ in range(2))
        assert np.array_equal(frames, again)
        assert facts == same


def test_a_clip_file_holds_the_frames(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    frames, clip = scenes.event_clip(np.random.default_rng(1), seconds=3, fps=10)
    assert isinstance(clip, Motion | Events)
    scenes.write_clip(tmp_path / "clip.mp4", frames, fps=10)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        read = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode()]
    assert [time for time, _ in read] == pytest.approx([i / 10 for i in range(30)])
    assert np.abs(np.stack([each for _, each in read]) - frames.astype(float)).mean() < 4
