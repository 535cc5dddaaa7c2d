"""`Pictures`: thumbnails of images and filmstrips of videos, as far as their bytes go."""

from __future__ import annotations

import io
import re
import time
from base64 import b64encode
from typing import TYPE_CHECKING, TypedDict

from vllm_mlx.errors import MediaNotAllowedError, MLXBatchError
from vllm_mlx.media.names import abridged
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.media.url import printable, safe_name
from vllm_mlx.video_params import VideoParams

if TYPE_CHECKING:
    from PIL import Image

_IMAGE, _FRAME, _FRAMES, _GAP = (240, 160), (160, 120), 6, 2  # pixels, frames, pixels
_IS_URL = re.compile("https?://", re.I)
_NOT_ALLOWED = (
    "not read: neither its folder nor its host was allowed; `mlx-batch report` takes "
    "--allowed-media-path and --allowed-media-domain"
)
_QUALITY = 75  # of JPEG
_SECONDS = 60.0  # that reading may take


class Picture(TypedDict, total=False):
    """One image or video of a row, as the page's script reads it.

    Attributes:
        name: what the prompt called it.
        at: its place among the pictures; missing if there is none.
        note: when the frames of a video are shown, or why there is no picture.
    """

    kind: str
    name: str
    at: int
    note: str


class Pictures:
    """Makes a picture of each medium once, until their bytes or the time are used up.

    Args:
        policy: what may be read.
        most_bytes: of all pictures together, as they stand in the page.
    """

    def __init__(self, policy: MediaPolicy, most_bytes: int) -> None:
        self.urls: list[str] = []
        self.left_out = 0
        self._policy = policy
        self._left = most_bytes
        self._until = time.monotonic() + _SECONDS
        self._known: dict[tuple[str, str], Picture] = {}

    def of(self, kind: str, source: str) -> Picture:
        """Return the picture of a medium; never raises."""
        if (kind, source) not in self._known:
            self._known[kind, source] = self._made(kind, source)
        return self._known[kind, source]

    def _made(self, kind: str, source: str) -> Picture:
        picture: Picture = {"kind": kind, "name": _name(source)}
        if self._left <= 0 or time.monotonic() > self._until:
            self.left_out += 1
            return picture | {"note": "not read: the report has room and time for some only"}
        if ",… (" in source and source.endswith(" bytes)"):
            return picture | {"note": "given inline, so its bytes are not in the dataset"}
        try:
            image, note = (_video if kind == "video" else _image)(source, self._policy)
        except ImportError as error:
            return picture | {"note": f"not read: {error.name} is not installed"}
        except MediaNotAllowedError:
            return picture | {"note": _NOT_ALLOWED}
        except (MLXBatchError, OSError, ValueError) as error:
            return picture | {"note": f"not read: {error}"}
        url = _url(image)
        self._left -= len(url)
        self.urls.append(url)
        return picture | {"at": len(self.urls) - 1, "note": note}


def _image(source: str, policy: MediaPolicy) -> tuple[Image.Image, str]:
    from vllm_mlx.media.image import read_image
    from vllm_mlx.media.source import opened

    with opened(source, policy) as file:
        image = read_image(file.path, policy, name=file.name)
    size = f"{image.width} x {image.height}"
    image.thumbnail(_IMAGE)
    return image, size


def _video(source: str, policy: MediaPolicy) -> tuple[Image.Image, str]:
    from PIL import Image

    from vllm_mlx.media.source import opened
    from vllm_mlx.media.video import read_video

    params = VideoParams.of(video_max_frames=_FRAMES)
    with opened(source, policy) as file:
        clip = read_video(file.path, params, policy, name=file.name)
    frames = [Image.fromarray(frame) for frame in clip.frames]
    for frame in frames:
        frame.thumbnail(_FRAME)
    width, height = frames[0].size
    strip = Image.new("RGB", (len(frames) * (width + _GAP) - _GAP, height), "grey")
    for at, frame in enumerate(frames):
        strip.paste(frame, (at * (width + _GAP), 0))
    times = ", ".join(f"{seconds:.1f}" for seconds in clip.timestamps)
    cut = "; its end is missing" if clip.truncated else ""
    return strip, f"at {times} of {clip.duration_s:.1f} s{cut}"


def _url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"


def _name(source: str) -> str:
    return printable(safe_name(source) if _IS_URL.match(source) else abridged(source))
