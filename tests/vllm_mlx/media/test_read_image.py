"""Images from every kind of source, as they are shown; and frames that a caller has already."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vllm_mlx.errors import MediaError
from vllm_mlx.media.image import read_image, stack_frames
from vllm_mlx.media.policy import UNRESTRICTED, MediaPolicy

RED, BLUE = (255, 0, 0), (0, 0, 255)


def picture(width: int = 8, height: int = 4) -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (0, height // 2, width, height))
    return image


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def read(source: Any, policy: MediaPolicy = UNRESTRICTED) -> Image.Image:
    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    return read_image(opened, policy, name="a.png")


def test_a_path_a_file_an_image_and_an_array_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture()))

    for source in (path, path.read_bytes(), picture(), np.asarray(picture())):
        image = read(source)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), np.asarray(picture()))


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_formats(format: str) -> None:
    image = read(encoded(picture(64, 64), format))

    assert np.abs(np.asarray(image).astype(int) - np.asarray(picture(64, 64)))[8].max() < 9


@pytest.mark.parametrize(("orientation", "size"), [(1, (8, 4)), (3, (8, 4)), (6, (4, 8))])
def test_exif_turns_it(orientation: int, size: tuple[int, int]) -> None:
    stored = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = picture(*size)
    source = encoded(shown if stored is None else shown.transpose(stored), exif=exif)

    image = read(source)

    assert np.array_equal(np.asarray(image), np.asarray(shown))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_is_white(mode: str) -> None:
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    clear.putpixel((1, 1), (0, 0, 0, 255))

    image = read(clear if mode == "RGBA" else clear.convert(mode))

    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((1, 1)) == (0, 0, 0)


def test_a_transparent_colour_of_a_palette_is_white() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, *RED])
    image.putpixel((1, 0), 1)

    image = read(encoded(image, transparency=0))

    assert [image.getpixel((0, 0)), image.getpixel((1, 0))] == [(255, 255, 255), RED]


def test_sixteen_bits_keep_their_greys() -> None:
    deep = Image.fromarray(np.array([[0, 32768, 65535]], np.uint16))

    assert np.asarray(read(encoded(deep)))[0, :, 0].tolist() == [0, 128, 255]


def test_a_pgm_of_sixteen_bits_keeps_its_greys() -> None:
    deep = np.array([[0, 32768, 65535]], ">u2")

    image = read(b"P5 3 1 65535\n" + deep.tobytes())

    assert np.asarray(image)[0, :, 0].tolist() == [0, 128, 255]


def test_greys_of_32_bits_up_to_255_are_what_they_say() -> None:
    grey = Image.fromarray(np.array([[0, 128, 255]], np.uint8))

    for mode in ("I", "F"):
        image = read(grey.convert(mode))
        assert np.asarray(image)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("greys", [[0, 0.5, 1.0], [0, 128.0, 256.0], [-1.0, 0, 9], [0, 128, 65535]])
def test_greys_without_a_known_white_are_an_error(greys: list[float]) -> None:
    deep = np.array([greys])
    image = Image.fromarray(deep.astype(np.float32 if deep.dtype == float else np.int32))

    for source in (image, encoded(image, "TIFF")):
        with pytest.raises(MediaError, match=r"32 bits from .* scale them to 0 to 255"):
            read(source)


def test_grey_and_one_channel() -> None:
    grey = np.full((3, 5), 77, np.uint8)

    for array in (grey, grey[:, :, None]):
        assert np.asarray(read(array)).tolist() == [[[77] * 3] * 5] * 3


def test_an_animation_is_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    source = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])

    assert read(source).getpixel((0, 0)) == RED


def bomb(side: int) -> bytes:
    """A PNG whose header claims much and which holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    small = picture()
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))

    with pytest.raises(MediaError, match=r"image a\.png: 9000 x 9000, allowed are 1000000 pixels"):
        read(bomb(9000), MediaPolicy(max_pixels=1_000_000))
    with pytest.raises(MediaError, match="more pixels than Pillow takes for safe"):
        read(bomb(60_000))
    with pytest.raises(MediaError, match="8 x 4, allowed are 31 pixels"):
        read(small, MediaPolicy(max_pixels=31))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP"])
def test_half_an_image_is_an_error(format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = encoded(noise, format)

    with pytest.raises(MediaError, match=r"^image a\.png: .*cut or damaged|known format"):
        read(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"garbage" * 99, "no image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image of a known format"),
        (Path("nowhere.png"), r"image a\.png: it can't be decoded .*No such file"),
        (np.zeros((4, 4, 3)), r"an array of float64 \[4, 4, 3\]; give uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"uint8 \[4, 4, 2\]"),
        (np.zeros((0, 4, 3), np.uint8), "has no pixels"),
    ],
)
def test_what_is_no_image_is_an_error_that_helps(source: Any, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        read(source)


def test_frames_of_an_array_and_of_images() -> None:
    array = np.stack([np.full((4, 6, 3), n, np.uint8) for n in range(3)])

    for frames in (array, [Image.fromarray(each) for each in array]):
        assert np.array_equal(stack_frames(frames, UNRESTRICTED), array)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "no frames"),
        (np.zeros((0, 4, 4, 3), np.uint8), "no frames"),
        ([picture(), picture(9)], "frames differ in size"),
        (np.zeros((2, 4, 4, 3)), "image 0 of video given as frames: an array of float64"),
    ],
)
def test_frames_that_make_no_clip(frames: Any, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        stack_frames(frames, UNRESTRICTED)
