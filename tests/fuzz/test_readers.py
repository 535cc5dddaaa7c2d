"""Prompt files of any content: rows, errors of rows, or an error that we name."""

from __future__ import annotations

import io
import json
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.sources import read_requests
from tests.helpers.strategies import JSON, any_of, cases, changed, only
from vllm_mlx.errors import MLXBatchError

SUFFIXES = [".jsonl", ".json", ".txt", ".csv", ".tsv", ".parquet", ".anything", ""]
CHAT = [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]
ROW = {"id": "a", "prompt": "Hello", "temperature": 0.5, "n": 2, "images": ["a.png"]}
OPENAI = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}}
LINES = any_of({**ROW, "messages": CHAT, "stop": ["x"], "video_fps": 1.0}) | any_of(
    {**OPENAI, "body": {"messages": CHAT, "max_tokens": 5}}
)


def parquet() -> bytes:
    table = pa.table({"prompt": ["a", "b"], "temperature": [0.1, None], "tags": [["x"], []]})
    file = io.BytesIO()
    pq.write_table(table, file, compression="none")
    return file.getvalue()


FILES = {
    ".jsonl": json.dumps(ROW).encode() + b'\n{"prompt": "b"}\n',
    ".csv": b'id,prompt,images\n1,"Hello, you","[""a.png""]"\n2,b,\n',
    ".parquet": parquet(),
    ".txt": "Hello\nWörld\n".encode(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def read(folder: Path, suffix: str, data: bytes) -> None:
    path = folder / f"prompts{suffix}"
    path.write_bytes(data)
    with only(MLXBatchError):
        for row in islice(read_requests(path), 200):
            assert (row.request is None) == (row.error is not None)
            assert row.error is None or str(row.error)


@cases(0.1)
@given(suffix=st.sampled_from(SUFFIXES), data=st.binary(max_size=300))
def test_any_bytes(folder: Path, suffix: str, data: bytes) -> None:
    read(folder, suffix, data)


@cases(0.15)
@given(data=st.data())
def test_files_with_some_bytes_changed(folder: Path, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from(sorted(FILES)))
    read(folder, suffix, data.draw(changed(FILES[suffix])))


@cases(0.15)
@given(lines=st.lists(LINES | JSON, min_size=1, max_size=4))
def test_lines_of_any_json(folder: Path, lines: list[object]) -> None:
    read(folder, ".jsonl", "\n".join(map(json.dumps, lines)).encode())
