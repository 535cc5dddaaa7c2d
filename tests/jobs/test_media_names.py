"""How rows name images and videos, and what of that goes into the dataset."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from jobs.media_names import carried, located
from vllm_mlx.media import image

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


@pytest.mark.parametrize("format", image.FORMATS)
def test_small_images_in_base64_are_no_paths(format: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, format)
    source = base64.b64encode(file.getvalue()).decode()

    assert len(source) < 4096
    assert located(source, "/folder") == source


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
        (None, None),
        (5, 5),
    ],
)
def test_long_inline_media_stay_out_of_the_dataset(source: Any, left: Any) -> None:
    def chat(part: Any) -> list[Any]:
        parts = [{"type": "text", "text": DATA_URL}, part, "broken"]
        return [{"role": "user", "content": parts}, {"role": "user", "content": DATA_URL}, 5]

    for column in ("image", "video"):
        assert carried(column, source) == left
    for column in ("images", "videos"):
        assert carried(column, [source, "a.png"]) == [left, "a.png"]
    for kind in ("image", "video", "image_url", "video_url"):
        part = {"type": kind, kind: source}
        assert carried("messages", chat(part)) == chat({"type": kind, kind: left})
        part = {"type": kind, kind: {"url": source, "detail": "auto"}}
        short = {"type": kind, kind: {"url": left, "detail": "auto"}}
        assert carried("messages", chat(part)) == chat(short)


def test_other_columns_are_carried_as_they_are() -> None:
    for column in ("prompt", "avatar", "metadata"):
        assert carried(column, DATA_URL) == DATA_URL
    assert carried("messages", "no list") == "no list"
    assert carried("images", {"url": DATA_URL}) == {"url": DATA_URL}
