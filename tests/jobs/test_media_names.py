"""What of a row's images and videos goes into the dataset."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from jobs.media_names import carried

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(1000)).decode()
JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(999)).decode()
DATA_URL = f"data:image/png;base64,{PNG}"
SHORT_DATA_URL = f"data:image/png;base64,{PNG[:64]}"


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
