"""`ClipIndex`: what a video file says of its frames, read without decoding one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

# Playlists (HLS, DASH, concat) would make FFmpeg open whatever else they name.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,gif,ogg,mxf,m4v,ivf"
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
ISO_BOXES = "mov,mp4"
MATROSKA = "matroska"
MISSING_S = 0.5  # a header's duration may be longer than the streams by less than this


def open_video(path: Path) -> InputContainer:
    """Open a file of one of `CONTAINERS`; nothing that it names is opened.

    Raises:
        av.FFmpegError: it is missing, or not of a container we know.
    """
    return av.open(str(path.absolute()), options=OPTIONS, metadata_errors="replace")


def video_stream(container: InputContainer) -> VideoStream | None:
    """Return the stream that a player would show; the cover of a song is none."""
    known = [each for each in container.streams.video if each.codec_context is not None]
    real = [each for each in known if Disposition.attached_pic not in each.disposition]
    best = container.streams.best("video")
    return next((each for each in real if each is best), next(iter(real), None))


@dataclass(slots=True)
class ClipIndex:
    """Times are in units of `time_base`.

    Attributes:
        pts: when each readable frame is shown, ascending.
        keys: of the frames that decoding can begin at, when it is shown and where to seek for it.
        stored: the times of all frames from the first key frame on, in the order they are decoded.
        damaged: those of them whose packets are not whole.
        end: when the last one ends.
        ordered: every frame has a time of its own, so that a time names a frame.
        leading: frames that are stored after a key frame and shown before it (open GOP).
        hidden: frames that are decoded but not shown (edit lists).
        truncated: the file ends before its own index does.
        decoded: `pts` is what came out of the decoder, not what the packets announce.
    """

    container: str
    codec: str
    time_base: Fraction
    rate: Fraction
    start: int
    pts: list[int] = field(default_factory=list)
    keys: list[tuple[int, int]] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    damaged: set[int] = field(default_factory=set)
    end: int = 0
    ordered: bool = True
    leading: int = 0
    hidden: int = 0
    truncated: bool = False
    decoded: bool = False

    def add(self, pts: int, duration: int | None, whole: bool) -> None:
        """Add the next frame in the order they are decoded."""
        self.stored.append(pts)
        if whole:
            self.pts.append(pts)
            self.end = max(self.end, pts + (duration or self.frame_length))
        else:
            self.damaged.add(pts)

    def without(self, decoded: list[int]) -> set[int]:
        """Return the frames that were predicted from one that is damaged, or not in `decoded`.

        They are all that are stored after it, up to the next key frame.
        """
        missing = set(self.stored).difference(decoded) | self.damaged
        keys = {time for time, _ in self.keys}
        spoilt: set[int] = set()
        key, spoiling = 0, False
        for pts in self.stored:
            if pts in keys:
                key, spoiling = pts, pts in missing
            elif pts in missing and pts > key:  # before the key: nothing is predicted from it
                spoiling = True
            if spoiling or pts in self.damaged:
                spoilt.add(pts)
        return spoilt

    @property
    def by_pts(self) -> bool:
        """Whether FFmpeg seeks by when a frame is shown, not by when it is decoded.

        With the other one MPEG-TS lands behind the frame, Matroska a key frame early.
        """
        return self.container.startswith((ISO_BOXES, MATROSKA))

    @property
    def timed(self) -> bool:
        """Whether the container says when a frame is shown (AVI says when it is decoded)."""
        return self.container != "avi"

    def seconds(self, pts: int) -> float:
        """Return the time from the first readable frame to `pts`."""
        return float((pts - self.pts[0]) * self.time_base)

    @property
    def frame_length(self) -> int:
        """Of one frame at the average rate, at least 1."""
        return max(1, round(1 / (self.rate * self.time_base)))


def index_video(path: Path, container: InputContainer, stream: VideoStream) -> ClipIndex:
    """Read the headers of all packets; the container has to be sought before it is decoded."""
    index = ClipIndex(
        container=container.format.name,
        codec=stream.codec_context.name,
        time_base=stream.time_base or Fraction(1, 1000),
        rate=stream.average_rate or stream.guessed_rate or Fraction(25),
        start=stream.start_time or 0,
    )
    iso = index.container.startswith(ISO_BOXES)
    has_duration = not iso and "mpeg" not in index.container  # MPEG's is guessed from the size
    ended_s, whole = _read_packets(index, container, stream, every_stream=has_duration)
    index.ordered &= index.timed
    index.pts.sort()
    index.keys.sort()
    # Shown before the first key frame: what they are predicted from may be missing.
    index.ordered &= not index.pts or index.pts[0] >= index.keys[0][0]
    index.ordered &= len(set(index.pts)) == len(index.pts)
    index.truncated = not whole
    if iso:
        index.truncated |= _cut_in_a_box(path)
    elif has_duration and container.duration:
        end_s = ((container.start_time or 0) + container.duration) / av.time_base
        index.truncated |= end_s - ended_s > MISSING_S
    return index


def _read_packets(
    index: ClipIndex, container: InputContainer, stream: VideoStream, every_stream: bool
) -> tuple[float, bool]:
    """Fill the index; return when the last packet of any stream ends, and whether all are read."""
    ended_s, key, last_dts = 0.0, None, None
    packets: Iterator[Packet[Any]] = container.demux() if every_stream else container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, IndexError):  # IndexError: PyAV at the end, of a stream come late
            return ended_s, True
        except av.FFmpegError:
            return ended_s, False
        if packet.size == 0:
            continue
        if packet.pts is not None and packet.time_base:
            ended_s = max(ended_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream_index != stream.index:
            continue
        if packet.pts is None or (last_dts is not None and (packet.dts or 0) < last_dts):
            index.ordered = False
            continue
        last_dts = packet.dts if packet.dts is not None else last_dts
        if packet.is_keyframe:
            key = packet.pts
            index.keys.append((key, packet.pts if index.by_pts else packet.dts or 0))
        index.leading += key is not None and packet.pts < key
        if packet.is_discard:
            index.hidden += 1
        elif key is not None:
            index.add(packet.pts, packet.duration, whole=not packet.is_corrupt)


def _cut_in_a_box(path: Path) -> bool:
    """Return whether a box of an MP4 or MOV file claims more bytes than the file has."""
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(16)
            if len(head) < 8:
                return True
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length < 8:  # 0 is to the end of the file; what is no box, FFmpeg reads past
                return False
            at += length
    return at > size
