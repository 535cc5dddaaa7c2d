"""How text names images and videos: which names are paths, and which are the files themselves."""

from __future__ import annotations

import base64
import io

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vllm_mlx.media import image
from vllm_mlx.media.names import LONGEST_PATH, abridged, located, may_be_base64
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.media.source import opened

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(1000)).decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(999)).decode()
DATA_URL = f"data:image/png;base64,{PNG}"
SHORT_DATA_URL = f"data:image/png;base64,{PNG[:64]}"


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("a.png", "/folder/a.png"),
        ("./sub/a.png", "/folder/sub/a.png"),
        ("../a.png", "/folder/../a.png"),
        ("take 2: the end.mp4", "/folder/take 2: the end.mp4"),
        ("take:2.mp4", "/folder/take:2.mp4"),
        ("http.png", "/folder/http.png"),
        ("Qk" + "/frames" * 10, "/folder/Qk" + "/frames" * 10),
        ("~/a.png", "/folder/~/a.png"),
        (
            "e3b0c44298fc1c149afbf4c8996fb924" * 2,
            "/folder/" + "e3b0c44298fc1c149afbf4c8996fb924" * 2,
        ),
    ],
)
def test_relative_paths_start_at_the_folder(source: str, path: str) -> None:
    assert located(source, "/folder") == path


@pytest.mark.parametrize(
    "source",
    [
        "/a.png",
        "https://example.com/a.png",
        "HTTP://example.com/a.png",
        "file:///a.png",
        "file:a.png",
        "s3://bucket/a.png",
        DATA_URL,
        "DATA:image/png;base64,AA",
        PNG,
        JPEG,
        PNG[:64],
        "A" * 5000,
    ],
)
def test_everything_else_stays(source: str) -> None:
    assert located(source, "/folder") == source


SMALL = [(mode, size) for mode in ("1", "L", "RGB") for size in (1, 3, 16)]


def is_known(data: bytes) -> bool:
    """Whether producer and reader take a file's base64 for what it is, and no path."""
    text = base64.b64encode(data).decode()
    assert len(text) < LONGEST_PATH, "longer ones are no paths anyway"
    with opened(text, MediaPolicy()) as file:
        return file.path.read_bytes() == data and located(text, "/folder") == text


@pytest.mark.parametrize("format", image.FORMATS)
def test_small_images_in_base64_are_no_paths(format: str) -> None:
    for mode, size in SMALL if format != "JPEG2000" else SMALL[3:]:
        file = io.BytesIO()
        Image.new(mode, (size, size)).save(file, format)
        assert is_known(file.getvalue()), (mode, size)


@pytest.mark.parametrize(
    "data",
    [
        *(b"P6" + space + b"9 9 255\n" + bytes(243) for space in (b" ", b"\t", b"\r\n", b"\n#\n")),
        *(b"P%d\n3 3\n" % kind + b"1 " * 9 for kind in (1, 2, 3)),
        b"Pf\n1 1\n-1\n" + bytes(4),
        b"MM\0+\0\x08\0\0" + bytes(40),
        b"\xff\x4f\xff\x51" + bytes(40),
        b"\0\0\0\x08wide\0\0\0\x10mdat",
    ],
)
def test_rare_beginnings_in_base64_are_no_paths(data: bytes) -> None:
    assert is_known(data)


@pytest.mark.parametrize(
    ("format", "codec"),
    [
        ("mp4", "mpeg4"),
        ("mov", "mpeg4"),
        ("matroska", "mpeg4"),
        ("webm", "libvpx"),
        ("mpegts", "mpeg2video"),
        ("mpeg", "mpeg1video"),
        ("mpeg1video", "mpeg1video"),
        ("flv", "flv1"),
        ("m4v", "mpeg4"),
        ("ivf", "libvpx"),
    ],
)
def test_short_videos_in_base64_are_no_paths(format: str, codec: str) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format=format) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))
        output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    assert is_known(file.getvalue())


@pytest.mark.parametrize(
    "head", [b"RIFF....AVI ", b"0&\xb2u\x8ef\xcf\x11", b"OggS", b"\x06\x0e+4", b"GIF89a"]
)
def test_parts_of_videos_in_base64_are_no_paths(head: bytes) -> None:
    assert is_known(head + bytes(6))


@given(st.binary(min_size=48, max_size=96))
def test_what_a_producer_takes_for_base64_a_reader_takes_too(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert located(text, "/folder") != text or may_be_base64(text)


@pytest.mark.parametrize(
    ("source", "left"),
    [
        (DATA_URL, "data:image/png;base64,… (1008 bytes)"),
        (f"data:video/mp4;base64,{JPEG}", "data:video/mp4;base64,… (1003 bytes)"),
        ("data:text/plain," + "x" * 300, "data:text/plain,… (300 bytes)"),
        (JPEG, "base64,… (1003 bytes)"),
        (SHORT_DATA_URL, SHORT_DATA_URL),
        ("https://example.com/?signature=" + "x" * 5000,) * 2,
        ("/folder/" + "x" * 1000,) * 2,
    ],
)
def test_of_long_inline_media_type_and_size_remain(source: str, left: str) -> None:
    assert abridged(source) == left
