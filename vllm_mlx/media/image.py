"""`read_image`: an image as a model is shown it; `stack_frames`: frames that a caller has."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from vllm_mlx.errors import MediaError
from vllm_mlx.media.clip import Frames
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.media.room import Claim, unbounded

Picture = Image.Image | NDArray[Any]
PIXEL_BYTES = 4  # in Pillow, also of RGB

Image.init()
# Others run programs (EPS) or are of no use; WMF, FITS and the like are Pillow's least tried code.
# Which ones a Pillow was built with differs; MPO is read as JPEG.
WANTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "ICO", "JPEG2000")
FORMATS = tuple(each for each in WANTED if each in Image.OPEN)
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def read_image(
    source: Path | BinaryIO | Picture,
    policy: MediaPolicy,
    *,
    name: str,
    claim: Claim = unbounded,
) -> Image.Image:
    """Return an RGB image, the first of several: turned as EXIF says, on white if transparent.

    Args:
        source: a local file within the policy, as `opened` gives it, a Pillow image, or an array
            uint8 [height, width] or [height, width, 1, 3 or 4].
        name: what an error calls it.
        claim: asked for the bytes of a file's pixels before they are decoded.

    Raises:
        MediaError: naming the image, what is wrong with it and what to do.
    """
    try:
        if isinstance(source, np.ndarray):
            source = _of_array(source)
        if isinstance(source, Image.Image):
            _check_pixels(source, policy)
            return _as_shown(source)
        with Image.open(source, formats=FORMATS) as image:
            _check_pixels(image, policy)
            claim(PIXEL_BYTES * image.width * image.height)
            return _as_shown(image)
    except MediaError as error:
        raise MediaError(f"image {name}: {error}") from None
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        raise MediaError(f"image {name}: {_explained(error)}") from None


def stack_frames(frames: Iterable[Picture], policy: MediaPolicy) -> Frames:
    """Return the frames of a video as one array uint8 [T, height, width, 3].

    Raises:
        MediaError: there is none, they differ in size, or one can't be used.
    """
    images = [
        np.asarray(read_image(frame, policy, name=f"{at} of video given as frames"))
        for at, frame in enumerate(frames)
    ]
    if not images:
        raise MediaError("video given as frames: it has no frames; give at least one")
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise MediaError(
            f"video given as frames: frames differ in size {sorted(sizes)}; scale them to one"
        )
    return np.stack(images)


def image_format(path: Path) -> str | None:
    """Pillow's name for the format of a file; None if it is no image."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.format
    except Exception:
        return None


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
    if isinstance(error, BOMBS):
        return "more pixels than Pillow takes for safe (Image.MAX_IMAGE_PIXELS); scale it down"
    if isinstance(error, UnidentifiedImageError):
        return f"no image of a known format ({', '.join(FORMATS)}); check that it opens elsewhere"
    return f"it can't be decoded ({error or type(error).__name__}); the file may be cut or damaged"
