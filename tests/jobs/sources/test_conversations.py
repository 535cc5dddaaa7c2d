"""ShareGPT's conversations, taken as messages in every kind of file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.sources import Format, read_requests

TURNS = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "Hi"},
    {"from": "gpt", "value": "Hello."},
    {"from": "human", "value": "Bye"},
]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_they_are_messages(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"in.{kind}"
    row = {"id": "a", "conversations": TURNS}
    match kind:
        case "jsonl":
            path.write_text(json.dumps(row) + "\n")
        case "csv":
            cell = json.dumps(TURNS).replace('"', '""')
            path.write_text(f'id,conversations\na,"{cell}"\n')
        case _:
            pq.write_table(pa.Table.from_pylist([row]), path)

    [found] = read_requests(path)

    assert found.request
    assert found.request.messages == MESSAGES
    assert Format.JSONL.dialect.columns(found.data) == {"conversations": TURNS}


def test_beside_a_prompt_they_are_a_column(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "p", "conversations": 5}\n')
    [found] = read_requests(tmp_path / "in.jsonl")
    assert found.request
    assert found.request.prompt == "p"


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ("Hi", "conversations='Hi': should be a list of turns"),
        (["Hi"], "conversations\\[0]='Hi': should be a turn such as"),
        ([{"from": "human"}], "conversations\\[0]="),
        (
            [{"from": "robot", "value": "a"}],
            "conversations\\[0].from='robot': should be one of",
        ),
        ([{"from": "human", "value": 5}], "messages\\[0].content=5"),
        ([], "messages=\\[\\]"),
    ],
)
def test_what_is_no_conversation(tmp_path: Path, turns: Any, words: str) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"conversations": turns}) + "\n")
    [found] = read_requests(tmp_path / "in.jsonl")
    with pytest.raises(Exception, match=words):
        raise found.error or AssertionError("no error")
