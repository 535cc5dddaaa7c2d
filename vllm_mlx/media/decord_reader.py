"""Frames by decord (decord2 2.0.0), for files that it reads rightly.

decord counts frames from a key frame and never looks at their times. Measured on clips with their
numbers drawn in, intact, in any order: right for MP4, MOV and Matroska without leading pictures;
wrong for MPEG-TS and PS, AVI, FLV, open GOPs, intra refresh, edit lists, and below 64 pixels of
width (rows are padded). On damaged files, too, its count slips without an error: nothing here can
tell, which is why it is asked only if `MediaPolicy.video_reader` says so.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vllm_mlx.media.clip import Frames
from vllm_mlx.media.clip_index import ClipIndex
from vllm_mlx.media.pyav_reader import THREADS

CODECS = ("h264", "hevc", "vp9", "libdav1d", "av1", "vp8")
NARROWEST = 64


def decord_is_right(index: ClipIndex, width: int) -> bool:
    """Return whether decord reads an intact file with this index without a mistake."""
    return (
        index.by_pts
        and index.codec in CODECS
        and width >= NARROWEST
        and index.ordered
        and not (index.leading or index.hidden or index.truncated)
        and 0 <= index.start == index.pts[0]
    )


def read_by_decord(path: Path, index: ClipIndex, wanted: list[int]) -> Frames | None:
    """Return the frames shown at the times `wanted`, uint8 [T, H, W, 3]; None if decord gives up.

    One reader a call: one that is shared by threads crashes the process.
    """
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(path.absolute()), num_threads=THREADS)
        if len(reader) != len(index.pts):
            return None
        number = {time: at for at, time in enumerate(index.pts)}
        frames: Frames | None = None
        for place, time in enumerate(wanted):  # get_batch would hold all of them twice
            picture = reader[number[time]].asnumpy()
            if picture.shape[2] != 3:  # rows as long as those of four channels, taken for these
                return None
            if frames is None:
                frames = np.empty((len(wanted), *picture.shape), np.uint8)
            frames[place] = picture
    except (decord.DECORDError, RuntimeError, StopIteration, ValueError):
        return None
    return frames
