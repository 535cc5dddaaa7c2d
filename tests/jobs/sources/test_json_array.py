"""Rows of a JSON array: those that the same objects a line are, wherever the array is broken."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import InputFileError
from jobs.sources import PromptFile, SourceRow, json_array, read_requests
from jobs.sources.inputs import input_of
from jobs.survey import survey_input
from vllm_mlx.sampling_params import SamplingParams

ALPACA = [
    {"instruction": "Add.", "input": "1, [2", "output": "3"},
    {"instruction": 'Say "]},{".', "input": "", "output": "\\"},
]
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def read(folder: Path, content: str) -> list[SourceRow]:
    path = folder / "rows.json"
    path.write_text(content)
    return list(read_requests(path))


@settings(deadline=None, max_examples=40)
@given(
    values=st.lists(_VALUES, min_size=1, max_size=5),
    indent=st.sampled_from([None, 0, 2]),
    plain=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_any_rows_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[Any],
    indent: int | None,
    plain: bool,
    chunk: int,
) -> None:
    data = [{"prompt": "p", "own": value} for value in values]
    content = json.dumps(data, indent=indent, ensure_ascii=plain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "_CHUNK", chunk)
        rows = read(tmp_path_factory.mktemp("any"), content)

    assert [row.data for row in rows] == data
    lines = content.split("\n")
    for row in rows:
        assert lines[row.line - 1].lstrip(" [").startswith("{")
    assert len({row.line for row in rows}) == (1 if indent is None else len(rows))


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ('[{"prompt": "a"},\n {"prompt": NaN},\n {"prompt": "c"}]', 2, "NaN is no JSON value at"),
        ('[{"prompt": "a"}, {\n  "prompt": b}, {"prompt": "c"}]', 1, "column 13, 1 lines below"),
        ('[{"prompt": "a"},\n"b",\n{"prompt": "c"}]', 2, "should be a JSON object, not 'b'"),
        ('[{"prompt": "a"},\n,{"prompt": "c"}]', 2, "a row is an object such as"),
        ('[{"prompt": "a"},\n{"prompt": "b"]\n,{"prompt": "c"}]', 2, "not JSON: expected `,` or"),
    ],
)
def test_a_bad_element_spoils_no_other(tmp_path: Path, content: str, line: int, words: str) -> None:
    first, bad, last = read(tmp_path, content)

    assert bad.line == line
    assert words in str(bad.error)
    assert [each.request and each.request.prompt for each in (first, last)] == ["a", "c"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"prompt": "a"},\n {"prompt": "b', "is cut off: its JSON array has no end"),
        ('[{"prompt": "a"}', "is cut off"),
        ('[{"prompt": "a"}]\n[{"prompt": "b"}]', "line 1: something stands behind the end"),
        ('[{"prompt": "a"}},\n {"prompt": "b"}]', "something stands behind"),
    ],
)
def test_a_broken_array_is_the_files_error(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(InputFileError, match=words):
        read(tmp_path, content)


def test_a_quote_that_is_missing_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_array, "_LARGEST_ROW", 1 << 20)
    with pytest.raises(InputFileError, match="row that begins on line 2 has more than 1 MiB"):
        read(tmp_path, '[{"prompt": "a"},\n{"prompt": "' + "x" * (3 << 20))


def test_memory_holds_a_row_and_not_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"prompt": "x" * 10_000}] * 400))
    tracemalloc.start()
    try:
        assert sum(1 for _ in PromptFile.of(path).rows()) == 400
        assert tracemalloc.get_traced_memory()[1] < 1 << 19  # of 4 MB
    finally:
        tracemalloc.stop()


def test_rows_on_one_line_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(ALPACA))
    survey = survey_input(
        input_of(tmp_path / "rows.json"), SamplingParams.of(), 1, chat=False, shard_size=8
    )
    [told] = survey.bad_rows.described()
    assert told.startswith("2 rows: neither prompt nor messages is given; the row has instruction")
    assert told.endswith(", rows 0, 1")
