"""`read_video`: the frames of a video file that a model looks at, each with its true time."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from vllm_mlx.errors import MediaError
from vllm_mlx.media.clip import Frames
from vllm_mlx.media.clip import VideoClip as VideoClip
from vllm_mlx.media.clip_index import ClipIndex, index_video, open_video, video_stream
from vllm_mlx.media.decord_reader import decord_is_right, read_by_decord
from vllm_mlx.media.image import image_format
from vllm_mlx.media.policy import MEGA, MediaPolicy
from vllm_mlx.media.pyav_reader import index_by_decoding, read_by_seeking, read_in_order
from vllm_mlx.media.room import Claim, unbounded
from vllm_mlx.media.selection import select_frames
from vllm_mlx.video_params import VideoParams

CHANNELS = 3


def read_video(
    path: Path,
    params: VideoParams,
    policy: MediaPolicy,
    *,
    name: str,
    claim: Claim = unbounded,
) -> VideoClip:
    """Decode the frames at `video_fps`, at most `video_max_frames` (then spread over the clip).

    Frames that can't be decoded are not there to choose from, and none is made up.

    Args:
        path: a local file within the policy, as `opened` gives it.
        name: what an error calls it.
        claim: asked for the frames' bytes before they are decoded.

    Raises:
        MediaError: naming the file, what is wrong with it and what to do.
    """
    try:
        return _Reading(path, params, policy, claim).clip()
    except MediaError as error:
        raise MediaError(f"video {name}: {error}") from None
    except (av.FFmpegError, OSError, ValueError, ArithmeticError, MemoryError) as error:
        raise MediaError(f"video {name}: {_explained(path, error)}") from None


class _Reading:
    """One file on its way to a clip; what it raises does not name the file."""

    def __init__(self, path: Path, params: VideoParams, policy: MediaPolicy, claim: Claim) -> None:
        self.path, self.params, self.policy, self.claim = path, params, policy, claim
        self.width = self.height = 0

    def clip(self) -> VideoClip:
        index = self._index()
        if index.ordered and index.pts:
            wanted = self._wanted(index)
            frames: Frames | None = None
            if self.policy.video_reader == "decord" and decord_is_right(index, self.width):
                frames = read_by_decord(self.path, index, wanted)
            for read in (read_by_seeking, read_in_order):
                if frames is None:
                    frames = read(self.path, index, wanted, self.policy.max_pixels)
            if frames is not None:
                return self._clip(index, wanted, frames)
        # Damaged or odd: only what comes out of the decoder tells which frames there are.
        longest = self.policy.max_duration_s / index.time_base
        index = index_by_decoding(self.path, index, self.policy.max_pixels, float(longest))
        if not index.pts:
            raise MediaError(
                "no frame of it can be decoded; check that it plays, or encode it again"
            )
        wanted = self._wanted(index)
        frames = read_in_order(self.path, index, wanted, self.policy.max_pixels)
        if frames is None:
            raise MediaError("it reads differently each time; encode it again")
        return self._clip(index, wanted, frames)

    def _index(self) -> ClipIndex:
        with open_video(self.path) as container:
            stream = video_stream(container)
            if stream is None:
                raise MediaError("it has no video, only sound or data; give a file with pictures")
            self.width, self.height = stream.codec_context.width, stream.codec_context.height
            if self.width * self.height > self.policy.max_pixels:
                raise MediaError(
                    f"frames of {self.width} x {self.height}, allowed are "
                    f"{self.policy.max_pixels} pixels; scale it down"
                )
            self._check_duration((container.duration or 0) / av.time_base)
            return index_video(self.path, container, stream)

    def _wanted(self, index: ClipIndex) -> list[int]:
        """Return the times, in the file's units, of the frames to take."""
        times = np.array([index.seconds(pts) for pts in index.pts])
        duration_s = index.seconds(index.end)
        self._check_duration(duration_s)
        wanted = [index.pts[at] for at in select_frames(times, duration_s, self.params)]
        total = len(wanted) * self.width * self.height * CHANNELS
        most = self.policy.max_frame_bytes
        if total > most:
            raise MediaError(
                f"{len(wanted)} frames of {self.width} x {self.height} take {total // MEGA} MiB, "
                f"allowed are {most // MEGA}; lower video_max_frames or video_fps, or scale it down"
            )
        self.claim(total)
        return wanted

    def _clip(self, index: ClipIndex, wanted: list[int], frames: Frames) -> VideoClip:
        return VideoClip(
            frames=frames,
            timestamps=tuple(map(index.seconds, wanted)),
            duration_s=index.seconds(index.end),
            truncated=index.truncated,
        )

    def _check_duration(self, duration_s: float) -> None:
        most = self.policy.max_duration_s
        if duration_s > most:
            raise MediaError(f"{duration_s:.1f} s long, allowed are {most:.1f}; cut it")


def _explained(path: Path, error: Exception) -> str:
    """Return why a file could not be read, and what to do."""
    picture = image_format(path)
    if picture:
        return f"it is a still image ({picture}), not a video; pass it with images="
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"FFmpeg can't read it ({reason}); check that it plays and is whole, or encode it as MP4"
