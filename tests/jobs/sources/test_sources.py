"""Reading files: JSONL, text, formats, ids, bad rows, size."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jobs
from jobs.errors import InputFileError
from jobs.sources import (
    Format,
    PromptFile,
    RawRow,
    SourceRow,
    detect_format,
    read_requests,
)
from jobs.sources.ids import RowIds
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.sampling_params import SamplingParams

BOM = b"\xef\xbb\xbf"
GOOD = b'{"prompt": "hi"}'


def read_rows(path: Path) -> Iterator[RawRow]:
    return PromptFile.of(path).rows()


def file(folder: Path, content: str | bytes | list[Any], name: str = "in.jsonl") -> Path:
    """A file of this text, these bytes, or these objects a line."""
    if isinstance(content, list):
        content = "".join(json.dumps(item) + "\n" for item in content)
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(folder: Path, content: str | bytes | list[Any], name: str = "in.jsonl") -> list[SourceRow]:
    return list(read_requests(file(folder, content, name)))


def error_of(row: SourceRow) -> str:
    assert row.request is None
    assert isinstance(row.error, InvalidRequestError)
    assert row.error.__traceback__ is None
    return str(row.error)


def prompts(rows: list[SourceRow]) -> list[str | None]:
    return [row.request.prompt if row.request else None for row in rows]


# --- JSONL -----------------------------------------------------------------------------------


def test_jsonl_rows(tmp_path: Path) -> None:
    data = [
        {"prompt": "a", "topic": "x", "max_tokens": 3},
        {"id": 7, "messages": [{"role": "user", "content": "b"}], "stop": ["\n"]},
    ]
    first, second = rows(tmp_path, data)
    assert (first.row, first.line, first.id, first.data, first.error) == (0, 1, "0", data[0], None)
    assert first.request
    assert (first.request.prompt, first.request.max_tokens, first.request.id) == ("a", 3, None)
    assert (second.row, second.line, second.id, second.data) == (1, 2, "7", data[1])
    assert second.request
    assert second.request.stop == ("\n",)


def test_own_columns_are_carried_and_do_not_reach_the_request(tmp_path: Path) -> None:
    data = {"id": "a", "prompt": "p", "model": "m", "step": 1, "metadata": {"k": 1}, "seed": 5}
    [row] = rows(tmp_path, [data])
    assert row.request
    columns = {k: v for k, v in data.items() if k != "id"}
    assert Format.JSONL.dialect.columns(row.data) == columns


@pytest.mark.parametrize("value", [{"k": 1}, "train", 3, [1], None])
def test_metadata_is_a_column_like_any_other(tmp_path: Path, value: Any) -> None:
    [row] = rows(tmp_path, [{"prompt": "p", "metadata": value}])
    assert row.request
    assert row.request.model_fields_set == {"prompt"}
    assert Format.JSONL.dialect.columns(row.data)["metadata"] == value


def test_a_name_with_a_nul_is_no_column(tmp_path: Path) -> None:
    bad, good = rows(tmp_path, [{"prompt": "p", "x\0y": 3, "z": 1}, {"prompt": "q"}])
    assert "NUL" in error_of(bad)
    assert Format.JSONL.dialect.columns(bad.data) == {"prompt": "p", "z": 1}
    assert prompts([good]) == ["q"]


def test_blank_lines_are_no_rows_but_lines(tmp_path: Path) -> None:
    read = rows(tmp_path, b"\n" + GOOD + b"\n \t\n\r\n" + GOOD + b"\n\n")
    assert [(row.row, row.line) for row in read] == [(0, 2), (1, 5)]


@pytest.mark.parametrize(
    "content", [BOM + GOOD, GOOD + b"\r\n", GOOD + b"\n", b"  " + GOOD + b" ", BOM + GOOD + b"\r\n"]
)
def test_bom_and_line_ends(tmp_path: Path, content: bytes) -> None:
    assert prompts(rows(tmp_path, content)) == ["hi"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"not json", 'not JSON: a row is an object such as {"prompt": "hello"}, not \'not json\''),
        (b"nope", 'not JSON: a row is an object such as {"prompt": "hello"}, not \'nope\''),
        (b'{"prompt": nope}', "not JSON: text that is not in quotes at column 13"),
        (b'{"prompt": "hi"', "not JSON: EOF"),
        (b'{"prompt": "h', "not JSON: EOF"),
        (b'{"prompt": "hi"} {}', "not JSON: trailing characters at column 18"),
        (b"{'prompt': 'hi'}", "not JSON"),
        (b'{"prompt": "hi",}', "trailing comma"),
        (b'[{"prompt": "hi"}]', "should be a JSON object, not [{'prompt': 'hi'}]"),
        (b'"hi"', "should be a JSON object, not 'hi'"),
        (b"null", "should be a JSON object, not None"),
        (b'{"prompt": "\xff"}', "not UTF-8: byte 0xff at position 13"),
        (b'{"prompt": "hi", "x": NaN}', "NaN is no JSON value"),
        (b'{"prompt": "hi", "x": Infinity}', "Infinity is no JSON value"),
        (b'{"prompt": "hi", "x": -Infinity}', "Infinity is no JSON value"),
        (b'{"prompt": "\\ud800"}', "\\ud800 is a lone surrogate"),
        (b'{"prompt": "\\udc00 x"}', "\\udc00 is a lone surrogate"),
        (b'{"prompt": "hi", "x": ["\\uD83D"]}', "\\uD83D is a lone surrogate"),
        (b'{"prompt": "hi", "\\ud800": 1}', "lone surrogate"),
    ],
)
def test_undecodable_lines_are_bad_rows(tmp_path: Path, line: bytes, words: str) -> None:
    before, bad, after = rows(tmp_path, GOOD + b"\n" + line + b"\n" + GOOD)
    assert words in error_of(bad)
    assert (bad.row, bad.line, bad.id, bad.data) == (1, 2, "1", {})
    assert Format.JSONL.dialect.columns(bad.data) == {}
    assert prompts([before, after]) == ["hi", "hi"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "neither prompt nor messages is given; the row has no columns"),
        ({"question": "a", "n": 1}, "neither prompt nor messages is given; the row has question"),
        ({"prompt": None}, "neither prompt nor messages"),
        ({"prompt": ""}, "prompt=''"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "exactly one"),
        ({"prompt": "a", "temperature": 3}, "temperature=3"),
        ({"prompt": "a", "x\0y": 3}, "'x\\x00y': a column's name holds a NUL"),
        ({"prompt": "a", "id": ""}, "id=''"),
    ],
)
def test_invalid_rows_keep_their_data(tmp_path: Path, data: dict[str, Any], words: str) -> None:
    bad, good = rows(tmp_path, [data, {"prompt": "hi"}])
    assert words in error_of(bad)
    assert bad.data == data
    assert prompts([good]) == ["hi"]


def test_a_bad_row_keeps_its_own_id(tmp_path: Path) -> None:
    [bad] = rows(tmp_path, [{"id": 5, "prompt": ""}])
    assert bad.id == "5"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("max_token", "max_tokens"),
        ("maxTokens", "max_tokens"),
        ("MAX-TOKENS", "max_tokens"),
        ("max_new_tokens", "max_tokens"),
        ("max_completion_tokens", "max_tokens"),
        ("temprature", "temperature"),
        ("Temperature", "temperature"),
        ("topP", "top_p"),
        ("top-k", "top_k"),
        ("minP", "min_p"),
        ("repetition_penality", "repetition_penalty"),
        ("repeat_penalty", "repetition_penalty"),
        ("stops", "stop"),
        ("Stop", "stop"),
        ("stop_sequences", "stop"),
        ("SEED", "seed"),
        ("N", "n"),
        ("logprob", "logprobs"),
        ("top_logprobs", "logprobs"),
        ("stopOnRepetition", "stop_on_repetition"),
    ],
)
def test_misspelt_sampling_fields_are_errors(tmp_path: Path, key: str, meant: str) -> None:
    [bad] = rows(tmp_path, [{"prompt": "a", key: 1}])
    assert error_of(bad).startswith(f"{key}: unknown field, did you mean {meant}?")


@pytest.mark.parametrize(
    "key",
    ["step", "speed", "top", "tokens", "n_tokens", "topic", "model", "text", "temp", "x" * 99],
)
def test_ordinary_columns_are_no_misspellings(tmp_path: Path, key: str) -> None:
    [row] = rows(tmp_path, [{"prompt": "a", key: 1}])
    assert row.error is None


def test_each_row_says_how_many_samples_it_wants(tmp_path: Path) -> None:
    data = [{"prompt": "a", "n": 3}, {"prompt": "b"}, {"prompt": "c", "n": None}, {"prompt": ""}]
    path = file(tmp_path, data)

    assert [row.samples for row in read_requests(path)] == [3, 1, 1, 1]
    assert [row.samples for row in read_requests(path, n=2)] == [3, 2, 2, 1]
    raw = list(PromptFile.of(path).rows())[:3]
    assert [Format.JSONL.dialect.samples(row.data, 2) for row in raw] == [3, 2, 2]


@pytest.mark.parametrize(
    ("row", "run", "n"),
    [
        ({"n": 2, "temperature": 0}, {}, 1),
        ({"n": 2}, {"temperature": 0.0}, 1),
        ({"temperature": 0}, {}, 2),
        ({}, {"temperature": 0.0}, 2),
        ({"n": 2, "temperature": 1e-9}, {}, 1),
    ],
)
def test_equal_samples_are_refused(
    tmp_path: Path, row: dict[str, Any], run: dict[str, Any], n: int
) -> None:
    path = file(tmp_path, [{"prompt": "a"} | row])
    [bad] = read_requests(path, sampling=SamplingParams.of(**run), n=n)
    assert error_of(bad).startswith("n=2: with temperature=0, max_tokens=0 or")
    assert bad.samples == 1


@pytest.mark.parametrize(
    ("row", "run", "n"),
    [
        ({"n": 1, "temperature": 0}, {}, 2),
        ({"n": 2, "temperature": 0.5}, {"temperature": 0.0}, 1),
        ({"temperature": 0.5}, {"temperature": 0.0}, 2),
        ({}, {"temperature": 0.0}, 1),
    ],
)
def test_samples_that_may_differ_are_not(
    tmp_path: Path, row: dict[str, Any], run: dict[str, Any], n: int
) -> None:
    path = file(tmp_path, [{"prompt": "a"} | row])
    [good] = read_requests(path, sampling=SamplingParams.of(**run), n=n)
    assert good.error is None


def test_integers_beyond_int64_are_fine(tmp_path: Path) -> None:
    [row] = rows(tmp_path, [{"prompt": "a", "big": 2**80}])
    assert row.data["big"] == 2**80
    assert row.error is None


def test_a_long_line(tmp_path: Path) -> None:
    text = "é" * 5_000_000
    assert prompts(rows(tmp_path, [{"prompt": text}, {"prompt": "hi"}])) == [text, "hi"]


KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=4), min_size=1, max_size=5), st.booleans())
def test_any_object_comes_back_and_survives_the_queue(
    objects: list[dict[str, Any]], escape: bool
) -> None:
    lines = [json.dumps(item, ensure_ascii=escape) for item in objects]
    with tempfile.TemporaryDirectory() as folder:
        path = file(Path(folder), "\n".join(lines))
        raw = list(PromptFile.of(path, Format.JSONL).rows())
        read = list(read_requests(path, Format.JSONL))
    assert [row.data for row in raw] == objects
    for row in read:
        sent = json.loads(json.dumps(row.data))
        assert Format.JSONL.dialect.columns(sent) == Format.JSONL.dialect.columns(row.data)
        if row.request:
            assert Format.JSONL.dialect.request(sent) == row.request


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
def test_no_bytes_stop_the_reading(lines: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for format in (Format.JSONL, Format.OPENAI, Format.TEXT):
            path = file(Path(folder), GOOD + b"\n" + b"\n".join(lines))
            read = list(read_requests(path, format))
            assert [row.row for row in read] == list(range(len(read)))
            assert all((row.request is None) == (row.error is not None) for row in read)
            assert len({row.id for row in read}) == len(read)


# --- text ------------------------------------------------------------------------------------


def test_text_is_a_prompt_a_line(tmp_path: Path) -> None:
    content = BOM + b'one\r\n\n  two \n \t\n\xff\n\xe3\x80\x80\n{"a": 1}'  # U+3000 is blank too
    read = rows(tmp_path, content, "in.txt")
    assert prompts(read) == ["one", "  two ", None, '{"a": 1}']
    assert [row.line for row in read] == [1, 3, 5, 7]
    assert error_of(read[2]) == "not UTF-8: byte 0xff at position 1"
    assert read[0].data == {"prompt": "one"}
    assert Format.TEXT.dialect.columns(read[0].data) == {"prompt": "one"}


def test_unicode_line_separators_do_not_end_a_line(tmp_path: Path) -> None:
    assert prompts(rows(tmp_path, "a\u2028b\x0bc\x85d\ne", "in.txt")) == ["a\u2028b\x0bc\x85d", "e"]


# --- formats and files -----------------------------------------------------------------------

BATCH = b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "p"}}'


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.jsonl", GOOD, Format.JSONL),
        ("a.ndjson", GOOD, Format.JSONL),
        ("a.json", GOOD, Format.JSONL),
        ("a.JSONL", GOOD, Format.JSONL),
        ("a.jsonl", b"\n" + BOM + BATCH, Format.JSONL),  # a BOM begins a file, not a line
        ("a.jsonl", BOM + b"\n \r\n" + BATCH, Format.OPENAI),
        ("a.json", BATCH, Format.OPENAI),
        ("a.json", BOM + b" \n[" + GOOD + b"]", Format.JSONL),
        ("a.json", b"[" + BATCH + b"]", Format.OPENAI),
        ("a.json", b"[]", Format.JSONL),
        ("a.jsonl", GOOD + b"\n" + BATCH, Format.JSONL),
        ("a.jsonl", b"broken\n" + BATCH, Format.JSONL),
        ("a.jsonl", b"[1]", Format.JSONL),
        ("a.jsonl", b'{"prompt": "p", "url": "u", "body": {}}', Format.JSONL),
        ("a.jsonl", b'{"url": "/v1/completions", "body": {"prompt": "p"}}', Format.OPENAI),
        ("a.txt", GOOD, Format.TEXT),
        ("a.csv", b"prompt", Format.CSV),
        ("a.tsv", b"prompt", Format.CSV),
        ("a", GOOD, Format.JSONL),
        ("a.data", BATCH, Format.OPENAI),
        ("a.prompts", b"hello", Format.TEXT),
        ("a.prompts", b"[1]", Format.TEXT),
        ("a.prompts", b'{"broken', Format.TEXT),
        ("a.parquet", b"PAR1....PAR1", Format.PARQUET),
        ("a.data", b"PAR1....PAR1", Format.PARQUET),
    ],
)
def test_detect_format(tmp_path: Path, name: str, content: bytes, format: Format) -> None:
    assert detect_format(file(tmp_path, content, name)) is format


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.txt", b"", "is empty"),
        ("a.csv", b"", "is empty"),
        ("a.parquet", b"", "is empty"),
        ("a.parquet", b"prompt", "is not a Parquet file"),
        ("a.json", b'{\n  "data": [\n    {"prompt": "p"}\n  ]\n}', "is one JSON object; rows are"),
        ("a.json", b'{"data": [\n{"prompt": "p"}]}', "is one JSON object; rows are"),
        ("a.jsonl", b"\x1f\x8b\x08\x00", "compressed, and damaged"),
        ("a.jsonl.gz", gzip.compress(b"PAR1....PAR1", mtime=0), "Parquet in a compressed file"),
        ("a.csv", b"PK\x03\x04", "zip"),
        ("a.txt", b"ARROW1\0\0", "is an Arrow or Feather file"),
        ("a.orc", b"ORC\n", "is an ORC file"),
        ("a.db", b"SQLite format 3\0", "is an SQLite database"),
        ("a.txt", "hi".encode("utf-16"), "UTF-16"),
    ],
)
def test_files_that_hold_no_prompts(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = file(tmp_path, content, name)
    for read in (detect_format, read_requests, PromptFile.of):
        with pytest.raises(InputFileError, match=words) as caught:
            read(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("format", [None, Format.JSONL, Format.CSV, Format.PARQUET])
def test_missing_files_and_folders_fail_at_once(tmp_path: Path, format: Format | None) -> None:
    for read in (read_requests, PromptFile.of):
        with pytest.raises(InputFileError, match="No such file"):
            read(tmp_path / "none", format)
        with pytest.raises(InputFileError, match="not a regular file"):
            read(tmp_path, format)


def test_pipes_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputFileError, match="not a regular file"):
        read_requests(tmp_path / "pipe")


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    path = file(tmp_path, GOOD)
    monkeypatch.setattr(Path, "open", refuse)
    for read in (read_requests, lambda path: PromptFile(path, Format.JSONL).fingerprint()):
        with pytest.raises(InputFileError, match="can't be read: Permission denied"):
            read(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b"\n \n"),
        ("a.json", b"[\n]\n"),
        ("a.txt", b"\r\n"),
        ("a.txt", BOM),
        ("a.csv", b"prompt\n"),
    ],
)
def test_files_without_rows_are_empty(tmp_path: Path, name: str, content: bytes) -> None:
    path = file(tmp_path, content, name)
    for read in (read_requests, read_rows):
        with pytest.raises(InputFileError, match="is empty: it holds no rows"):
            list(read(path))


def test_a_given_format_is_obeyed(tmp_path: Path) -> None:
    path = file(tmp_path, GOOD)
    [row] = read_requests(path, Format.TEXT)
    assert prompts([row]) == [GOOD.decode()]
    assert [raw.data for raw in PromptFile.of(path, Format.TEXT).rows()] == [row.data]


def test_abandoned_reading_leaves_no_file_open(tmp_path: Path) -> None:
    read = read_requests(file(tmp_path, [{"prompt": "a"}] * 3))
    next(iter(read))
    del read  # a ResourceWarning would fail the test


def test_raw_rows_are_the_same_rows(tmp_path: Path) -> None:
    path = file(tmp_path, GOOD + b'\n\n{"prompt": ""}\nbroken\n{"id": 1, "prompt": "b"}')
    raw = list(PromptFile.of(path).rows())
    read = list(read_requests(path))
    assert [(r.row, r.line, r.data) for r in raw] == [(r.row, r.line, r.data) for r in read]
    assert [r.error is None for r in raw] == [True, True, False, True]
    assert str(raw[2].error) == str(read[2].error)


def test_fingerprint(tmp_path: Path) -> None:
    empty_sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert PromptFile.of(file(tmp_path, b"abc")).fingerprint() == f"sha256:{empty_sum}"
    assert PromptFile.of(str(file(tmp_path, b"abd"))).fingerprint() != f"sha256:{empty_sum}"


def test_a_dialect_makes_a_row_s_request_or_raises() -> None:
    request = Format("jsonl").dialect.request({"prompt": "p", "id": 5, "x": 1})
    assert (request.id, request.prompt) == ("5", "p")
    assert request.over(SamplingParams.of(seed=1)).seed == 1
    with pytest.raises(InvalidRequestError, match="neither prompt nor messages"):
        Format.JSONL.dialect.request({})


# --- ids -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [["a", "b", "a"], [1, 2, "1"], ["x" * 512, "y", "x" * 512]])
def test_the_later_of_two_equal_ids_is_bad(tmp_path: Path, ids: list[Any]) -> None:
    first, second, third = rows(tmp_path, [{"id": id, "prompt": "p"} for id in ids])
    assert first.error is second.error is None
    assert error_of(third) == f"id={str(ids[0])!r}: an earlier row has the same id"
    assert len({first.id, second.id, third.id}) == 3


def test_what_is_wrong_with_a_row_comes_before_its_id(tmp_path: Path) -> None:
    _, bad = rows(tmp_path, [{"id": "a", "prompt": "p"}, {"id": "a", "prompt": ""}])
    assert error_of(bad).startswith("prompt=''")
    assert error_of(bad).endswith("; id='a': an earlier row has the same id")
    assert bad.id == "1"


def test_a_missing_id_that_an_earlier_row_has(tmp_path: Path) -> None:
    read = rows(tmp_path, [{"id": 2, "prompt": "p"}, {"prompt": "q"}, {"prompt": "r"}])
    assert [row.error is None for row in read] == [True, True, False]
    assert "an earlier row has the id '2'" in error_of(read[2])
    assert len({row.id for row in read}) == 3


def test_an_id_that_an_earlier_row_goes_by(tmp_path: Path) -> None:
    read = rows(tmp_path, [{"prompt": "p"}, {"prompt": "q"}, {"id": "1", "prompt": "r"}])
    assert [row.error is None for row in read] == [True, True, False]
    assert "row 1 counted from 0 has no id of its own" in error_of(read[2])
    assert len({row.id for row in read}) == 3


def test_ids_that_only_look_like_positions(tmp_path: Path) -> None:
    ids = [None, "00", "+0", "\u0660", "5", 5.5, "9" * 400]
    read = rows(tmp_path, [{"id": id, "prompt": "p"} for id in ids])
    assert [row.row for row in read if row.error] == [5]


def test_positions_as_ids_are_no_collision(tmp_path: Path) -> None:
    read = rows(tmp_path, [{"id": index, "prompt": "p"} for index in range(5)])
    assert [row.id for row in read] == list("01234")
    assert not any(row.error for row in read)


@given(st.lists(st.sampled_from([None, "0", "1", "2", "3", "row-1", "row-2", "row-row-1", "a"])))
def test_ids_are_unique_whatever_is_claimed(own: list[str | None]) -> None:
    ids, given_out = RowIds(), []
    for row, name in enumerate(own):
        try:
            given_out.append(ids.claim(row, name))
        except InvalidRequestError:
            given_out.append(ids.substitute(row))
    assert len(set(given_out)) == len(own)


def test_rows_without_ids_go_by_their_position(tmp_path: Path) -> None:
    read = rows(tmp_path, [{"prompt": "p"}] * 12)
    assert [row.id for row in read] == [str(row) for row in range(12)]


# --- size and speed --------------------------------------------------------------------------

# Linux's ru_maxrss counts what the parent had at the fork, so the kernel is asked for our own peak.
_COUNT_ROWS = """
import pathlib, re, resource, sys
from jobs.sources import read_requests
from jobs.sources.formats import Format
def peak():
    status = pathlib.Path("/proc/self/status")
    own = re.search(r"VmHWM:\\s*(\\d+)", status.read_text()) if status.exists() else None
    unit = 1 if sys.platform == "darwin" else 1024
    return int(own[1]) * 1024 if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
before = peak()
rows = sum(1 for row in read_requests(sys.argv[1], Format.JSONL) if row.error is None)
print(rows, peak() - before)
"""


@pytest.mark.parametrize(
    "count", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow, id="a million")]
)
def test_ids_fit_in_memory(tmp_path: Path, count: int) -> None:
    path = tmp_path / "prompts.jsonl"
    with path.open("w") as out:
        out.writelines(f'{{"id": "row-{i:090d}", "prompt": "Hi {i}"}}\n' for i in range(count))
    root = Path(jobs.__file__).parents[1]
    command = [sys.executable, "-c", _COUNT_ROWS, str(path)]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    rows, taken = map(int, done.stdout.split())
    assert rows == count
    assert taken < 5e6 + 110 * count  # a set of the ids themselves takes more


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = file(tmp_path, [{"prompt": "x" * 1000}] * 5000)
    peaks = []
    for format in (Format.JSONL, Format.TEXT):
        tracemalloc.start()
        assert sum(1 for _ in read_requests(path, format)) == 5000
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 1_000_000  # the file is five times that


def test_reading_is_fast(tmp_path: Path) -> None:
    """In times of what `json` takes for the same lines, of this thread's own time: others may have
    the processor."""
    count = 20_000
    path = file(tmp_path, [{"prompt": f"Write a haiku about {i}."} for i in range(count)])

    def parse(path: Path) -> Iterator[Any]:
        with path.open("rb") as lines:
            yield from map(json.loads, lines)

    def seconds(read: Callable[[Path], Iterator[Any]]) -> float:
        start = time.thread_time()
        assert sum(1 for _ in read(path)) == count
        return time.thread_time() - start

    for read, most in ((read_rows, 3), (read_requests, 40)):  # measured: 0.5 and 12
        assert min(seconds(read) / seconds(parse) for _ in range(3)) < most


@pytest.mark.parametrize(("own", "run"), [(True, None), (None, True)])
def test_rows_are_told_that_have_nothing_to_go_on_with(
    tmp_path: Path, own: bool | None, run: bool | None
) -> None:
    user, begun = ({"role": role, "content": "a"} for role in ("user", "assistant"))
    own_setting = {} if own is None else {"continue_final_message": own}
    chats = [{"messages": [user]}, {"messages": [user, begun]}, {"prompt": "a"}]
    path = file(tmp_path, [chat | own_setting for chat in chats])

    asked, goes_on, plain = read_requests(
        path, sampling=SamplingParams.of(continue_final_message=run)
    )

    assert error_of(asked).startswith("continue_final_message: the last message should be text of")
    assert goes_on.error is None
    assert error_of(plain).startswith("continue_final_message: no chat template reads it")
