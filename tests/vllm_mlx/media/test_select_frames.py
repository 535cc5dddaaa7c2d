from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vllm_mlx.media.selection import select_frames
from vllm_mlx.video_params import VideoParams


def select(times: list[float], duration: float, fps: float = 2.0, most: int = 32) -> list[int]:
    params = VideoParams(video_fps=fps, video_max_frames=most)
    return select_frames(np.array(times), duration, params)


def test_a_tie_goes_to_the_frame_on_the_screen() -> None:
    assert select([n / 25 for n in range(50)], 2.0) == [0, 12, 25, 37]


def test_rounded_times_lose_no_frame() -> None:
    times = [round(n / 30, 3) for n in range(60)]
    assert select(times, 2.0, fps=30.0, most=99) == list(range(60))


def test_one_frame_of_many_is_the_middle() -> None:
    assert select([n / 10 for n in range(101)], 10.1, most=1) == [50]


def test_the_maximum_is_spread_over_the_whole_clip() -> None:
    assert select([n / 10 for n in range(101)], 10.1, most=3) == [0, 50, 100]


def test_a_long_still_leaves_no_place_empty() -> None:
    times = [n / 2 for n in range(40)] + [600.0]
    chosen = select(times, 601.0, most=8)
    assert len(chosen) == 8
    assert (chosen[0], chosen[-1]) == (0, 40)


@given(
    st.lists(st.floats(0.001, 5.0), max_size=60),
    st.floats(0.0, 5.0),
    st.floats(0.1, 60.0),
    st.integers(1, 40),
)
def test_always_some_and_each_once(steps: list[float], hold: float, fps: float, most: int) -> None:
    times = [0.0, *np.cumsum(steps)]
    chosen = select(times, times[-1] + hold, fps, most)

    assert 1 <= len(chosen) <= most
    assert chosen == sorted(set(chosen))
    assert 0 <= chosen[0] <= chosen[-1] < len(times)
