"""`read_image`: an image as a model is shown it; `frames_of`: frames that a caller has already."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vllm_mlx.errors import MediaError
from vllm_mlx.media.clip import VideoClip
from vllm_mlx.media.policy import UNRESTRICTED, MediaPolicy
from vllm_mlx.media.room import Claim, unbounded
from vllm_mlx.video_params import VideoParams

Picture = Image.Image | NDArray[Any]
PIXEL_BYTES = 4  # in Pillow, also of RGB

Image.init()
# Others run programs (EPS) or are of no use; WMF, FITS and the like are Pillow's least tried code.
# Which ones a Pillow was built with differs; MPO is read as JPEG.
WANTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "ICO", "JPEG2000")
FORMATS = tuple(each for each in WANTED if each in Image.OPEN)
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def read_image(
    source: Path | bytes | Picture,
    policy: MediaPolicy,
    *,
    name: str | None = None,
    claim: Claim = unbounded,
) -> Image.Image:
    """Return an RGB image, the first of several: turned as EXIF says, on white if transparent.

    Args:
        source: a local file that the caller may read, its content, a Pillow image, or an array
            uint8 [height, width] or [height, width, 1, 3 or 4].
        name: what an error calls it; the path without.
        claim: asked for the bytes of a file's pixels before they are decoded.

    Raises:
        MediaError: naming the image, what is wrong with it and what to do.
    """
    name = name or (str(source) if isinstance(source, Path) else "given inline")
    try:
        if isinstance(source, np.ndarray):
            source = _of_array(source)
        if isinstance(source, Image.Image):
            _check_pixels(source, policy)
            return _as_shown(source)
        with _opened(source, policy) as image:
            _check_pixels(image, policy)
            claim(PIXEL_BYTES * image.width * image.height)
            return _as_shown(image)
    except MediaError as error:
        raise MediaError(f"image {name}: {error}") from None
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        raise MediaError(f"image {name}: {_explained(error)}") from None


def frames_of(
    frames: NDArray[Any] | Sequence[Picture],
    fps: float | None = None,
    policy: MediaPolicy = UNRESTRICTED,
    *,
    name: str | None = None,
) -> VideoClip:
    """Return a clip of all these frames, of which frame n is shown at n / fps.

    Args:
        frames: array uint8 [T, height, width, 3] (or 1 or 4 channels), or images of one size.
        fps: of these frames; without, as if they were taken at the default of `video_fps`.

    Raises:
        MediaError: there is none, they differ in size, or one can't be used.
    """
    name = name or "given as frames"
    fps = VideoParams.of().video_fps if fps is None else fps
    if not 0 < fps < float("inf"):
        raise MediaError(f"video {name}: fps must be above 0, is {fps}")
    if len(frames) == 0:
        raise MediaError(f"video {name}: it has no frames; give at least one")
    images = [
        np.asarray(read_image(frame, policy, name=f"{at} of video {name}"))
        for at, frame in enumerate(frames)
    ]
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise MediaError(f"video {name}: frames differ in size {sorted(sizes)}; scale them to one")
    height, width, _ = images[0].shape
    return VideoClip(
        frames=np.stack(images),
        timestamps=tuple(at / fps for at in range(len(images))),
        num_frames=len(images),
        fps=fps,
        duration_s=len(images) / fps,
        width=width,
        height=height,
    )


def image_format(path: Path) -> str | None:
    """Pillow's name for the format of a file; None if it is no image."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.format
    except Exception:
        return None


def _opened(source: Path | bytes, policy: MediaPolicy) -> Image.Image:
    size = source.stat().st_size if isinstance(source, Path) else len(source)
    if size == 0:
        raise MediaError("it is empty; check how it was written or downloaded")
    if size > policy.max_bytes:
        raise MediaError(f"{size} bytes, allowed are {policy.max_bytes}; use a smaller file")
    return Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=FORMATS)


def _of_array(array: NDArray[Any]) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise MediaError(
            f"an array of {array.dtype} {list(array.shape)}; give uint8 [height, width, 3]"
        )
    if 0 in array.shape:
        raise MediaError(f"an array of {list(array.shape)} has no pixels")
    return Image.fromarray(
        np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and channels == 1 else array)
    )


def _check_pixels(image: Image.Image, policy: MediaPolicy) -> None:
    """Refuse a large image before it is decoded: a few bytes can stand for gigabytes of pixels."""
    if image.width * image.height > policy.max_pixels:
        raise MediaError(
            f"{image.width} x {image.height}, allowed are {policy.max_pixels} pixels; scale it down"
        )


def _as_shown(image: Image.Image) -> Image.Image:
    image.load()
    # Sixteen bits a pixel, which Pillow keeps in 32 if they are from a PGM file.
    is_deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    image = ImageOps.exif_transpose(image)
    if not is_deep and image.mode in ("I", "F"):
        _check_greys(image)
    if is_deep:  # convert() would cut off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        above = image.convert("RGBA")
        image = Image.new("RGBA", above.size, "white")
        image.alpha_composite(above)
    return image.convert("RGB")


def _check_greys(image: Image.Image) -> None:
    """Pillow would make black of floats up to 1, and white of all that is above 255."""
    low, high = cast("tuple[float, float]", image.getextrema())
    if not 0 <= low <= high <= 255 or (image.mode == "F" and 0 < high <= 1):
        raise MediaError(
            f"greys of 32 bits from {low:g} to {high:g}, and nothing says what is white; scale "
            "them to 0 to 255"
        )


def _explained(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file; check the path"
    if isinstance(error, BOMBS):
        return "more pixels than Pillow takes for safe (Image.MAX_IMAGE_PIXELS); scale it down"
    if isinstance(error, UnidentifiedImageError):
        return f"no image of a known format ({', '.join(FORMATS)}); check that it opens elsewhere"
    return f"it can't be decoded ({error or type(error).__name__}); the file may be cut or damaged"
