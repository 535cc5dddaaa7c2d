"""Rows of which a template makes requests: what is asked, shown, named and carried."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import InputFileError
from jobs.sources import Format, PromptFile, SourceRow, Template, read_requests
from jobs.sources.templated import Templated

ROWS = [
    {"asin": "B1", "title": "Kettle", "body": "hot", "max_tokens": 3},
    {"asin": "B2", "title": "Pan", "body": "flat", "max_tokens": 4},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".csv":
            lines = [rows[0].keys(), *(row.values() for row in rows)]
            path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
        case _:
            pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def read(folder: Path, *rows: dict[str, Any], **options: Any) -> list[SourceRow]:
    path = write(folder / "in.jsonl", list(rows))
    return list(read_requests(path, template=Template.of(**options)))


def one(folder: Path, row: dict[str, Any], **options: Any) -> Any:
    """The request of one row."""
    [found] = read(folder, row, **options)
    assert found.error is None
    return found.request


def columns(row: SourceRow, **options: Any) -> dict[str, Any]:
    return Templated(Template.of(**options)).columns(row.data)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_prompt_of_the_columns_of_any_file(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"in.{kind}", ROWS)
    template = Template.of(prompt="{{ title }}: {{ body }}", id_column="asin")

    rows = list(read_requests(path, template=template))

    assert [row.id for row in rows] == ["B1", "B2"]
    requests = [row.request for row in rows if row.request]
    assert [request.prompt for request in requests] == ["Kettle: hot", "Pan: flat"]
    assert [request.max_tokens for request in requests] == [3, 4], "settings stay settings"
    carried = Templated(template).columns(rows[0].data)
    assert carried == ROWS[0] | {"prompt": "Kettle: hot"}


def test_a_prompt_of_the_lines_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    template = Template.of(prompt="Translate: {{ prompt }}")

    rows = list(read_requests(tmp_path / "in.txt", template=template))

    assert [row.request and row.request.prompt for row in rows] == [
        "Translate: one",
        "Translate: two",
    ]
    assert Templated(template).columns(rows[0].data) == {
        "input_prompt": "one",
        "prompt": "Translate: one",
    }


def test_what_a_worker_makes_of_a_row_is_what_the_producer_made(tmp_path: Path) -> None:
    options = {"prompt": "{{ title }}", "system": "S", "id_column": "asin"}
    for row in read(tmp_path, *ROWS, **options):
        sent = json.loads(json.dumps(row.data))
        assert Templated(Template.of(**options)).request(sent) == row.request


def test_a_system_message_before_what_a_row_says(tmp_path: Path) -> None:
    system, user = {"role": "system", "content": "For x"}, {"role": "user", "content": "p"}
    other = {"role": "system", "content": "own"}
    text = "For {{ who }}"

    assert one(tmp_path, {"prompt": "p", "who": "x"}, system=text).messages == [system, user]
    assert one(tmp_path, {"messages": [user], "who": "x"}, system=text).messages == [system, user]
    own = {"messages": [other, user], "who": "x"}
    assert one(tmp_path, own, system=text).messages == [other, user], "what a row says holds for it"
    turns = [{"from": "human", "value": "p"}]
    assert one(tmp_path, {"conversations": turns, "who": "x"}, system=text).messages == [
        system,
        user,
    ]
    made = one(tmp_path, {"q": "p", "who": "x"}, system=text, prompt="{{ q }}")
    assert made.messages == [system, user]


def test_a_setting_of_others_acts_where_the_template_puts_it(tmp_path: Path) -> None:
    row = {"system_prompt": "Be brief.", "prompt": "Hi"}
    system = {"role": "system", "content": "Be brief."}
    (read_it,) = read(tmp_path, row, system="{{ system_prompt }}")
    assert read_it.request
    assert read_it.request.messages == [system, {"role": "user", "content": "Hi"}]
    (unread,) = read(tmp_path, row, system="{{ prompt }}")
    assert str(unread.error).startswith("system_prompt: not supported; make it the first message")


def test_a_chat_of_several_turns(tmp_path: Path) -> None:
    chat = [
        {"role": "user", "content": "2+2"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": [{"type": "text", "text": "{{ a }}+{{ b }}"}]},
    ]

    made = one(tmp_path, {"a": 1, "b": 3}, messages=chat, system="Add.")

    assert [message["content"] for message in made.messages] == ["Add.", "2+2", "4", "1+3"]


def test_a_message_without_content_stays_one(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    chat = [
        {"role": "user", "content": "{{ q }}"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "{{ a }}"},
    ]
    made = one(tmp_path, {"q": "?", "a": "!"}, messages=chat)
    assert [message.get("content") for message in made.messages] == ["?", "", "!"]


def test_columns_of_images_and_videos(tmp_path: Path) -> None:
    row = {"pic": "a.png", "clip": ["b.mp4"], "image": "not seen", "q": "?"}
    options = {"image_column": "pic", "video_column": "clip"}

    plain = one(tmp_path, row, prompt="{{ q }}", **options)
    assert (plain.images, plain.videos) == ((f"{tmp_path}/a.png",), (f"{tmp_path}/b.mp4",))
    chat = one(tmp_path, row, prompt="{{ q }}", system="s", **options)
    assert chat.messages[1]["content"] == [
        {"type": "image", "image": f"{tmp_path}/a.png"},
        {"type": "video", "video": f"{tmp_path}/b.mp4"},
        {"type": "text", "text": "?"},
    ]
    assert one(tmp_path, {"pic": None, "q": "?"}, prompt="{{ q }}", image_column="pic").images == ()
    own = one(tmp_path, {"image": "c.png", "q": "?"}, prompt="{{ q }}", system="s")
    assert own.media == [{"type": "image", "image": f"{tmp_path}/c.png"}]
    parts = [{"type": "image", "image": "{{ image }}"}, {"type": "text", "text": "{{ q }}"}]
    few = one(tmp_path, {"image": "c.png", "q": "?"}, messages=[{"role": "user", "content": parts}])
    assert few.media == own.media, "once"


def test_a_csv_cell_may_hold_a_list_of_images(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('q,pic\n?,"[""a.png"", ""b.png""]"\n')
    template = Template.of(prompt="{{ q }}", image_column="pic")
    [row] = read_requests(tmp_path / "in.csv", template=template)
    assert row.request
    assert row.request.images == (f"{tmp_path}/a.png", f"{tmp_path}/b.png")


def test_inline_images_are_abridged_in_a_column_of_any_name(tmp_path: Path) -> None:
    row = {"pic": "data:image/png;base64," + "A" * 5000, "q": "?"}
    options = {"prompt": "{{ q }}", "image_column": "pic", "system": "s"}
    [found] = read(tmp_path, row, **options)

    assert len(json.dumps(columns(found, **options))) < 1000


def test_columns_of_parquet_keep_their_types(tmp_path: Path) -> None:
    """Also a Hugging Face column of images, of which a dataset has the place only."""
    at = datetime(2026, 1, 2, tzinfo=UTC)
    image = {"bytes": b"\xff\x00", "path": None}
    rows = [
        {"at": at, "prompt": "p", "pic": image, "tags": ["a"], "price": price}
        for price in (1.5, math.nan)
    ]
    path = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    template = Template.of(
        prompt="{{ prompt }} {{ at }} {{ tags }} {{ price or '' }}", image_column="pic"
    )

    source = PromptFile.of(path, template=template)
    found = [row.request for row in read_requests(path, template=template)]

    assert source.column_types().keys() == {"at", "tags", "price"}
    assert [request.prompt for request in found if request] == [
        'p 2026-01-02 00:00:00.000000Z ["a"] 1.5',
        'p 2026-01-02 00:00:00.000000Z ["a"] ',
    ]
    assert [request.images for request in found if request] == [("data:;base64,/wA=",)] * 2


def test_columns_keep_their_names(tmp_path: Path) -> None:
    row = {"id": 7, "prompt": "p", "messages": "m", "key": "k"}
    [found] = read(tmp_path, row, prompt="<{{ prompt }}>", id_column="key")
    assert found.id == "k"
    assert columns(found, prompt="x", id_column="key") == {
        "id": 7,
        "input_prompt": "p",
        "messages": "m",
        "key": "k",
        "prompt": "<p>",
    }
    [found] = read(tmp_path, row, prompt="<{{ prompt }}>")
    assert "id" not in columns(found, prompt="x")


@pytest.mark.parametrize(
    ("row", "options", "words"),
    [
        ({"a": 1}, {"prompt": "{{ b }}"}, "prompt: 'b' is undefined; the row has a"),
        ({"a": ""}, {"prompt": "{{ a }}"}, "makes an empty text"),
        ({"a": ""}, {"prompt": "{{ a }}", "system": "s"}, "makes an empty text"),
        ({"a": 1}, {"system": "{{ a }}"}, "neither prompt nor messages is given; the row has a"),
        ({"prompt": "p"}, {"system": "{{ b }}"}, "system: 'b' is undefined"),
        ({"prompt": "p", "messages": []}, {"system": "s"}, "messages"),
        ({"messages": 5}, {"system": "s"}, "messages=5"),
        ({"a": 1}, {"prompt": "p", "id_column": "b"}, "id_column='b': missing; the row has a"),
        ({"a": 1.5}, {"prompt": "p", "id_column": "a"}, "id=1.5"),
        ({"a": 1}, {"prompt": "p", "image_column": "a"}, "images[0]=1"),
        ({"temprature": 1}, {"prompt": "p"}, "did you mean temperature"),
        ({"temperature": 9}, {"prompt": "p"}, "temperature=9"),
        (
            {"image": "a.png"},
            {"messages": [{"role": "assistant", "content": "a"}]},
            "no message of the user",
        ),
        (
            {"a": 1},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "{{ b }}"}]}]},
            "messages[0].content[0]: 'b' is undefined",
        ),
    ],
)
def test_a_row_of_which_nothing_is_made(
    tmp_path: Path, row: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    [bad] = read(tmp_path, row, **options)
    assert words in str(bad.error)
    carried = list(columns(bad, **options).values())
    assert all(value in carried for value in row.values())


def test_a_bad_row_keeps_its_name(tmp_path: Path) -> None:
    [bad] = read(tmp_path, {"a": "x"}, prompt="{{ b }}", id_column="a")
    assert bad.id == "x"
    [bad] = read(tmp_path, {"id": "x"}, prompt="{{ b }}")
    assert bad.id == "x"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"system": "s"}, "no column prompt or messages; there are a, b"),
        ({"prompt": "p", "id_column": "c"}, "id_column='c': there is no such column; there are a"),
        ({"prompt": "p", "image_column": "c"}, "image_column='c'"),
    ],
)
def test_what_a_table_has_not_is_the_files_error(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    (tmp_path / "in.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputFileError, match=words):
        list(read_requests(tmp_path / "in.csv", template=Template.of(**options)))


def test_rows_of_openai_batches_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "p"}}\n')
    with pytest.raises(InputFileError, match="rows are whole requests"):
        PromptFile.of(path, template=Template.of(prompt="p"))


def test_an_unreadable_row_stays_one(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("{]\n")
    [bad] = read_requests(tmp_path / "in.jsonl", Format.JSONL, template=Template.of(prompt="p"))
    assert "not JSON" in str(bad.error)
