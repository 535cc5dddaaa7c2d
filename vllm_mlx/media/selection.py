"""`select_frames`: which frames of a clip are looked at.

They are chosen by the time they are shown, never by number: a variable rate changes nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vllm_mlx.video_params import VideoParams

Times = NDArray[np.float64]
TIE = 1e-6  # seconds; of two frames equally near the earlier is the one on the screen


def select_frames(times: Times, duration_s: float, params: VideoParams) -> list[int]:
    """Return the indices, ascending, of at least one and at most `video_max_frames` frames.

    Args:
        times: when each frame is shown, ascending from 0, in seconds; at least one.
        duration_s: when the last one ends.
    """
    moments = np.arange(0.0, max(duration_s, times[-1]), 1.0 / params.video_fps)
    wanted = nearest(times, moments if len(moments) else np.zeros(1))
    most = params.video_max_frames
    if len(wanted) <= most:
        return [int(each) for each in wanted]
    if most == 1:
        return [int(nearest(times, np.array([times[-1] / 2]))[0])]
    spread = nearest(times, np.linspace(0.0, times[-1], most))
    if len(spread) < most:  # a long still: equal distances in time would leave places empty
        spread = wanted[np.linspace(0, len(wanted) - 1, most).round().astype(np.intp)]
    return [int(each) for each in spread]


def nearest(times: Times, moments: Times) -> NDArray[np.intp]:
    """Return the indices of the frames nearest to some moments, each once, ascending."""
    after = np.searchsorted(times, moments).clip(0, len(times) - 1)
    before = (after - 1).clip(0)
    later = times[after] - moments < moments - times[before] - TIE
    return np.unique(np.where(later | (after == before), after, before))
