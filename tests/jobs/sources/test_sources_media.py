"""Images and videos in prompt files of every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import InputFileError
from jobs.sources import Format, PromptFile, SourceRow, read_requests

PART = {"type": "image_url", "image_url": {"url": "a.png"}}


def jsonl(folder: Path, *rows: dict[str, Any]) -> list[SourceRow]:
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_requests(path))


def body(**fields: Any) -> dict[str, Any]:
    url = "/v1/chat/completions" if "messages" in fields else "/v1/completions"
    return {"url": url, "body": fields}


def media(row: SourceRow) -> list[str]:
    assert row.request, row.error
    return [part[part["type"]] for part in row.request.media]


def test_jsonl_paths_are_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "prompts.jsonl"
    row = {"prompt": "p", "images": ["a.png", "/b.png"], "videos": ["https://h/c.mp4"]}
    path.write_text(json.dumps(row))
    monkeypatch.chdir(tmp_path)

    [read] = read_requests("in/prompts.jsonl")

    assert media(read) == [f"{tmp_path}/in/a.png", "/b.png", "https://h/c.mp4"]
    assert read.data == row, "the row's own value stays"
    assert Format.JSONL.dialect.columns(read.data) == row
    assert Format.JSONL.dialect.request(row).images == ("a.png", "/b.png")


def test_one_image_and_one_video(tmp_path: Path) -> None:
    both, lists, nulls, chat = jsonl(
        tmp_path,
        {"prompt": "p", "image": "a.png", "video": "b.mp4"},
        {"prompt": "p", "image": "a.png", "images": None, "videos": "b.mp4"},
        {"prompt": "p", "image": None, "video": None},
        {"messages": [{"role": "user", "content": [PART]}], "image": None},
    )
    assert media(both) == media(lists) == [f"{tmp_path}/a.png", f"{tmp_path}/b.mp4"]
    assert media(nulls) == []
    assert media(chat) == [f"{tmp_path}/a.png"]
    assert Format.JSONL.dialect.columns(both.data) == both.data


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "p", "image": "a", "images": ["b"]}, "give one of image and images"),
        ({"prompt": "p", "image": {"bytes": 1}}, "image is a dict: should be a path, a URL"),
        ({"prompt": "p", "video": ""}, "videos[0]=''"),
        ({"messages": [{"role": "user", "content": "x"}], "video": "a"}, "content as parts"),
        ({"prompt": "p", "Image": "a"}, "Image: unknown field, did you mean image?"),
        ({"prompt": "p", "VIDEOS": ["a"]}, "VIDEOS: unknown field, did you mean videos?"),
        ({"prompt": "p", "videoFps": 1}, "videoFps: unknown field, did you mean video_fps?"),
        ({"prompt": "p", "video_max_frame": 1}, "did you mean video_max_frames?"),
        ({"prompt": "p", "video": "a", "fps": 1}, "fps: unknown field, did you mean video_fps?"),
        ({"prompt": "p", "videos": ["a"], "max_frames": 1}, "did you mean video_max_frames?"),
        ({"prompt": "p", "video": "a", "video_fps": 0}, "video_fps=0: should be greater than 0"),
    ],
)
def test_bad_rows(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    [bad] = jsonl(tmp_path, row)
    assert words in str(bad.error)


@pytest.mark.parametrize("key", ["fps", "max_frames", "image_id", "video_path", "image_url"])
def test_columns_of_text_rows_are_no_misspellings(tmp_path: Path, key: str) -> None:
    [row] = jsonl(tmp_path, {"prompt": "p", key: 5})
    assert row.error is None


def test_openai_rows(tmp_path: Path) -> None:
    rows = jsonl(
        tmp_path,
        body(messages=[{"role": "user", "content": [PART]}], video_fps=1.0),
        body(prompt="p", images=["a.png"], video_max_frames=3),
        body(prompt="p", image="a.png"),
    )
    for row in rows:
        assert media(row) == [f"{tmp_path}/a.png"]
        assert Format.OPENAI.dialect.columns(row.data) == row.data["body"]
    assert rows[0].request
    assert rows[0].request.video_fps == 1.0
    with pytest.raises(ValueError, match=r"body.fps=2: not supported"):
        Format.OPENAI.dialect.request(body(prompt="p", video="a", fps=2))


def test_csv_cells(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text(
        "prompt,images,video,video_fps,video_max_frames\n"
        'p,"[""a.png"", ""b.png""]",,0.5,\n'
        "p,a.png,c.mp4,,16.0\n"
        "p,[a].png,,,\n"
        "p,,,,\n"
    )
    both, single, brackets, text = read_requests(path)
    assert media(both) == [f"{tmp_path}/a.png", f"{tmp_path}/b.png"]
    assert media(single) == [f"{tmp_path}/a.png", f"{tmp_path}/c.mp4"]
    assert media(brackets) == [f"{tmp_path}/[a].png"]
    assert media(text) == []
    assert both.request
    assert single.request
    assert (both.request.video_fps, single.request.video_max_frames) == (0.5, 16)
    assert single.data["images"] == "a.png"


def test_parquet_cells(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    columns = {"prompt": ["p", "p"], "images": [["a.png"], None], "video": [None, "c.mp4"]}
    pq.write_table(pa.table(columns), path)
    first, second = read_requests(path)
    assert (media(first), media(second)) == ([f"{tmp_path}/a.png"], [f"{tmp_path}/c.mp4"])


def test_media_files_are_no_format_of_a_prompt_file(tmp_path: Path) -> None:
    jsonl(tmp_path, {"prompt": "p"})
    for read in (read_requests, PromptFile.of):
        with pytest.raises(InputFileError, match="'media' is no format of a prompt file"):
            read(tmp_path / "in.jsonl", Format.MEDIA)
