"""What of a row's media goes into the dataset."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.sources.dialect import carried

DATA_URL = f"data:image/png;base64,{'A' * 1344}"


@pytest.mark.parametrize(
    ("source", "left"),
    [
        (DATA_URL, "data:image/png;base64,… (1008 bytes)"),
        ("/folder/" + "x" * 1000,) * 2,
        (None, None),
        (5, 5),
    ],
)
def test_long_inline_media_stay_out_of_the_dataset(source: Any, left: Any) -> None:
    def chat(part: Any) -> dict[str, Any]:
        parts = [{"type": "text", "text": DATA_URL}, part, "broken"]
        messages = [{"role": "user", "content": parts}, {"role": "user", "content": DATA_URL}, 5]
        return {"messages": messages}

    for column in ("image", "video"):
        assert carried({column: source}) == {column: left}
    for column in ("images", "videos"):
        assert carried({column: [source, "a.png"]}) == {column: [left, "a.png"]}
    for kind in ("image", "video", "image_url", "video_url"):
        part = {"type": kind, kind: source}
        assert carried(chat(part)) == chat({"type": kind, kind: left})
        part = {"type": kind, kind: {"url": source, "detail": "auto"}}
        short = {"type": kind, kind: {"url": left, "detail": "auto"}}
        assert carried(chat(part)) == chat(short)
        part = {"type": kind, "url": source, "detail": "low"}
        assert carried(chat(part)) == chat(part | {"url": left})


def test_other_columns_are_carried_as_they_are() -> None:
    columns = {"prompt": DATA_URL, "avatar": DATA_URL, "metadata": DATA_URL, "messages": "no list"}
    assert carried(columns) == columns
