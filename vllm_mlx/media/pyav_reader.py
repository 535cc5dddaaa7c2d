"""Frames by PyAV.

Each decoded frame carries the time it is shown, so it is the one that is meant, wherever a seek
landed and whatever is missing around it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vllm_mlx.media.clip import Frames
from vllm_mlx.media.clip_index import ClipIndex, open_video, video_stream

THREADS = 2  # each holds frames of its own: 16 of them cost 0.4 GB more on 1080p
LAST = 1 << 63
NEAR = 2  # frames to decode rather than seek over


class Canvas:
    """The frames as they arrive, in the size and rotation of the first."""

    def __init__(self, wanted: list[int], stream: VideoStream) -> None:
        self.places = {time: place for place, time in enumerate(wanted)}
        self.width, self.height = stream.codec_context.width, stream.codec_context.height
        self.turns = 0
        self.frames: Frames | None = None

    def put(self, time: int, frame: VideoFrame) -> None:
        """Keep the frame shown at `time` if it is wanted."""
        if time not in self.places:
            return
        picture = frame.to_ndarray(format="rgb24", width=self.width, height=self.height)
        if self.frames is None:
            self.turns = round(frame.rotation / 90)
            shape = np.rot90(picture, self.turns).shape
            self.frames = np.empty((len(self.places), *shape), np.uint8)
        self.frames[self.places[time]] = np.rot90(picture, self.turns)


@dataclass(slots=True)
class Run:
    """A stretch of the video that is decoded in one go.

    Attributes:
        target: where to seek for the key frame.
        first: when the key frame is shown.
        last: of the frames stored up to the last wanted one, when the last is shown. They are all
            decoded: where one gives no picture, others may be predicted from what it left.
    """

    target: int
    first: int
    last: int


def runs_of(index: ClipIndex, wanted: list[int]) -> list[Run]:
    """Return the runs that hold the wanted frames, without long ones of frames that are not."""
    place = {time: at for at, time in enumerate(index.stored)}
    latest = np.maximum.accumulate(np.array(index.stored))
    runs: list[Run] = []
    for time in wanted:
        key, target = index.keys[bisect_right(index.keys, (time, LAST)) - 1]
        if not runs or _frames_between(index, runs[-1].last, key) > NEAR:
            runs.append(Run(target, key, key))
        runs[-1].last = max(runs[-1].last, int(latest[place[time]]))
    return runs


def _frames_between(index: ClipIndex, shown: int, key: int) -> int:
    return bisect_right(index.pts, key) - bisect_right(index.pts, shown)


def read_by_seeking(
    path: Path, index: ClipIndex, wanted: list[int], max_pixels: int
) -> Frames | None:
    """Return the frames shown at the times `wanted`, uint8 [T, H, W, 3].

    None if one of them could not be had in this way.

    Args:
        wanted: ascending, each in `index.pts`.
    """
    with open_video(path) as container:
        stream = decodable(container, max_pixels)
        canvas = Canvas(wanted, stream)
        for run in runs_of(index, wanted):
            container.seek(run.target, stream=stream)
            frames = decoded(container, stream)
            shown = ((each.pts, each) for each, whole in frames if whole and each.pts is not None)
            if not _take(index, run, shown, canvas):
                return None
        return canvas.frames


def _take(
    index: ClipIndex, run: Run, frames: Iterator[tuple[int, VideoFrame]], canvas: Canvas
) -> bool:
    """Put a run's frames on the canvas; return whether all that should be decoded were."""
    at, end = bisect_left(index.pts, run.first), bisect_right(index.pts, run.last)
    seen = set()
    for time, frame in frames:
        canvas.put(time, frame)
        seen.add(time)
        if time >= run.last:
            break
    whole = not any(run.first <= time <= run.last for time in index.damaged)
    return whole and seen.issuperset(index.pts[at:end])


def index_by_decoding(path: Path, index: ClipIndex, max_pixels: int, last: float) -> ClipIndex:
    """Return an index of the frames that the decoder yields, up to one later than `last`."""
    ends: dict[int, int] = {}
    with open_video(path) as container:
        for time, frame in in_order(container, decodable(container, max_pixels), index):
            ends[time] = time + (frame.duration or index.frame_length)
            if time - next(iter(ends)) > last:
                break
    spoilt = index.without(list(ends)) if index.timed else ()
    pts = [time for time in ends if time not in spoilt]
    end = ends[pts[-1]] if pts else 0
    return replace(index, pts=pts, end=end, damaged=set(), decoded=True)


def read_in_order(
    path: Path, index: ClipIndex, wanted: list[int], max_pixels: int
) -> Frames | None:
    """Like `read_by_seeking`, without a seek."""
    latest = max(run.last for run in runs_of(index, wanted)) if not index.decoded else wanted[-1]
    with open_video(path) as container:
        stream = decodable(container, max_pixels)
        canvas = Canvas(wanted, stream)
        run = Run(target=0, first=index.pts[0], last=latest)
        whole = _take(index, run, in_order(container, stream, index), canvas)
        return canvas.frames if whole else None


def in_order(
    container: InputContainer, stream: VideoStream, index: ClipIndex
) -> Iterator[tuple[int, VideoFrame]]:
    """Yield all frames from the first, with ascending times.

    Where a file has none, or goes back (joined recordings), the frame follows the one before it at
    the average rate. Without times in the container, each is shown when the decoder outputs it.
    """
    last: int | None = None
    moved = 0
    for frame, whole in decoded(container, stream):
        given = frame.pts if index.timed else frame.dts
        if given is None and not index.timed and index.truncated:
            return  # held back for frames that are missing, so nothing says when it is shown
        time = moved + given if given is not None else None
        if index.ordered and time is not None and last is not None and time <= last:
            continue  # damage made the decoder let go of it too late
        if last is not None and (time is None or time <= last):
            after = last + index.frame_length
            moved += after - time if time is not None else 0
            time = after
        last = time or 0
        if whole:
            yield last, frame


def decoded(container: InputContainer, stream: VideoStream) -> Iterator[tuple[VideoFrame, bool]]:
    """Yield the frames from where the container stands, and whether each is whole.

    Those between an error and the next key frame are not: they are predicted from what is damaged.
    """
    packets = container.demux(stream)
    damaged = ended = False
    while not ended:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, IndexError):  # IndexError: PyAV at the end, of a stream come late
            packet = None
        ended = packet is None
        try:
            frames = stream.codec_context.decode(packet)
        except av.EOFError:
            return
        except av.FFmpegError:
            damaged = True
            continue
        for frame in frames:
            damaged = frame.is_corrupt or (damaged and not frame.key_frame)
            yield frame, not damaged


def decodable(container: InputContainer, max_pixels: int) -> VideoStream:
    """Return the video stream, set up before its decoder is opened."""
    stream = video_stream(container)
    if stream is None:
        raise ValueError("it has no video")
    stream.codec_context.options = {"max_pixels": str(max_pixels)}
    stream.codec_context.thread_count = THREADS
    stream.thread_type = "AUTO"
    return stream
