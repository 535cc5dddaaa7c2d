"""CSV and Parquet: cells become what a JSONL row would hold."""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import tempfile
import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import InputFileError
from jobs.sources import Format, PromptFile, SourceRow, read_requests

CHAT = [{"role": "user", "content": "hi"}]


def from_csv(folder: Path, content: str | bytes, name: str = "in.csv") -> list[SourceRow]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_requests(path))


def from_parquet(folder: Path, table: pa.Table | dict[str, Any]) -> list[SourceRow]:
    path = folder / "in.parquet"
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path)
    return list(read_requests(path))


# --- CSV -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["true", "True", "TRUE", "yes", "1"])
def test_csv_cells_of_logprobs_repetition_and_samples(tmp_path: Path, cell: str) -> None:
    first, second, bad = from_csv(
        tmp_path, f"prompt,logprobs,stop_on_repetition,n\na,2,{cell},4\nb,,false,\nc,0,perhaps,2\n"
    )
    assert first.request
    assert (first.request.logprobs, first.request.stop_on_repetition) == (2, True)
    assert (first.samples, second.samples) == (4, 1)
    assert second.request
    assert (second.request.logprobs, second.request.stop_on_repetition) == (None, False)
    assert str(bad.error).startswith("stop_on_repetition='perhaps'")


def test_csv_cells_of_tokens_and_penalties(tmp_path: Path) -> None:
    header = "prompt,presence_penalty,logit_bias,stop_token_ids,min_tokens,ignore_eos"
    first, second, third, bad = from_csv(
        tmp_path,
        f'{header}\na,0.5,"{{""7"": -100, ""8"": 2.5}}","[7, 8.0]",3.0,true\n'
        "b,,,7,,\nc,,,7.0,,\nd,,x,,,\n",
    )
    assert first.request
    assert second.request
    assert third.request
    assert first.request.logit_bias == {7: -100.0, 8: 2.5}
    assert (first.request.stop_token_ids, first.request.min_tokens) == ((7, 8), 3)
    assert (first.request.presence_penalty, first.request.ignore_eos) == (0.5, True)
    assert second.request.stop_token_ids == third.request.stop_token_ids == (7,)
    assert second.request.logit_bias is None
    assert str(bad.error).startswith("logit_bias='x'")


def test_parquet_cells_of_tokens_and_penalties(tmp_path: Path) -> None:
    columns = {
        "prompt": ["a", "b", "c"],
        "logit_bias": [{"7": -100.0}, {"8": 2.0}, None],
        "stop_token_ids": [[7], None, []],
        "min_tokens": [2.0, None, None],
    }
    requests = [row.request for row in from_parquet(tmp_path, columns)]
    assert [each and each.logit_bias for each in requests] == [{7: -100.0}, {8: 2.0}, None]
    assert [each and each.stop_token_ids for each in requests] == [(7,), None, ()]
    assert [each and each.min_tokens for each in requests] == [2, 0, 0]


def test_csv_cells_are_converted(tmp_path: Path) -> None:
    header = "id,prompt,max_tokens,temperature,top_k,seed,stop,repetition_penalty,rating,metadata"
    [first, second] = from_csv(
        tmp_path,
        f'{header}\n7,"a, b",5,0,3,9223372036854775807,"[""x"", ""y""]",1.5,0.5,"{{""k"": 1}}"\n'
        "b,c,256.0,1e-1,,,END,,,\n",
    )
    assert first.request
    assert first.data == {
        "id": "7",
        "prompt": "a, b",
        "max_tokens": 5,
        "temperature": 0.0,
        "top_k": 3,
        "seed": 2**63 - 1,
        "stop": ["x", "y"],
        "repetition_penalty": 1.5,
        "rating": "0.5",
        "metadata": '{"k": 1}',
    }
    assert (first.id, first.request.stop) == ("7", ("x", "y"))
    assert second.request
    assert (second.request.max_tokens, second.request.stop) == (256, ("END",))
    assert second.request.model_fields_set == {"id", "prompt", "max_tokens", "temperature", "stop"}
    assert Format.CSV.dialect.columns(second.data)["rating"] is None


def test_csv_messages_are_json(tmp_path: Path) -> None:
    cell = json.dumps(CHAT).replace('"', '""')
    good, bad, prompt = from_csv(tmp_path, f'messages,prompt\n"{cell}",\n[broken,\n,hi\n')
    assert good.request
    assert good.request.messages == CHAT
    assert "messages='[broken'" in str(bad.error)
    assert prompt.request
    assert prompt.request.prompt == "hi"


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("max_tokens", "many"),
        ("max_tokens", "1.5"),
        ("temperature", "warm"),
        ("temperature", "nan"),
        ("top_p", "inf"),
        ("temperature", "9" * 500),
        ("seed", "-1"),
    ],
)
def test_csv_cells_that_do_not_convert_are_named(tmp_path: Path, column: str, cell: str) -> None:
    bad, good = from_csv(tmp_path, f"prompt,{column}\na,{cell}\nb,\n")
    assert str(bad.error).startswith(f"{column}=")
    assert good.error is None
    json.dumps(bad.data, allow_nan=False)


def test_csv_lines_and_quoted_newlines(tmp_path: Path) -> None:
    read = from_csv(tmp_path, b'\xef\xbb\xbfprompt\r\n\r\n"a\nb"\r\nc\r\n\r\nd')
    assert [row.data["prompt"] for row in read] == ["a\nb", "c", "d"]
    assert [(row.row, row.line) for row in read] == [(0, 3), (1, 5), (2, 7)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"a", "1 cells where the header has 2"),
        (b"a,b,c", "3 cells where the header has 2"),
        (b"a\xff,b", "not UTF-8"),
        (b"a,\xed\xa0\x80", "not UTF-8"),
        (b'"a"x,b', "not CSV"),
        (b",b", "neither prompt nor messages"),
    ],
)
def test_bad_csv_rows(tmp_path: Path, line: bytes, words: str) -> None:
    first, bad, last = from_csv(tmp_path, b"prompt,x\ngood,1\n" + line + b"\ngood,2\n")
    assert words in str(bad.error)
    assert (bad.row, bad.line, bad.id) == (1, 3, "1")
    assert first.error is last.error is None


def test_an_unclosed_quote_is_a_bad_row(tmp_path: Path) -> None:
    good, bad = from_csv(tmp_path, 'prompt,x\na,1\n"b,2\nc,3\n')
    assert good.error is None
    assert "not CSV: unexpected end of data" in str(bad.error)


def test_tsv(tmp_path: Path) -> None:
    [row] = from_csv(tmp_path, "prompt\tseed\na, b\t5\n", "in.tsv")
    assert row.data == {"prompt": "a, b", "seed": 5}


@pytest.mark.parametrize(
    ("header", "cells", "row"),
    [
        ("prompt;seed", "a, b;5", {"prompt": "a, b", "seed": 5}),
        ('"prompt";"a,b"\r', '"x;y";1\r', {"prompt": "x;y", "a,b": "1"}),
        ("prompt\tseed", "a; b\t5", {"prompt": "a; b", "seed": 5}),
        ("prompt,a;b", "x,1", {"prompt": "x", "a;b": "1"}),
        ("prompt", "a; b", {"prompt": "a; b"}),
    ],
)
def test_what_is_between_cells_is_what_the_header_has(
    tmp_path: Path, header: str, cells: str, row: dict[str, object]
) -> None:
    [read] = from_csv(tmp_path, f"\ufeff{header}\n{cells}\n")
    assert read.data == row


def test_a_large_csv_cell(tmp_path: Path) -> None:
    [row] = from_csv(tmp_path, "prompt\n" + "x" * 10_000_000)
    assert row.request


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("question,answer", "no column prompt or messages; there are question, answer; a "),
        ("prompt,prompt", "more than one column 'prompt'"),
        ("prompt,max_token", "max_token: unknown field, did you mean max_tokens"),
        ('"prompt"x', "header: not CSV"),
    ],
)
def test_a_wrong_header_is_the_files_error(tmp_path: Path, header: str, words: str) -> None:
    with pytest.raises(InputFileError, match=words):
        from_csv(tmp_path, f"{header}\na,b\n")


def test_a_nameless_csv_column_gets_a_name(tmp_path: Path) -> None:
    [row] = from_csv(tmp_path, ",prompt\n0,a\n")  # as pandas writes its index
    assert row.data == {"column_0": "0", "prompt": "a"}


CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


@settings(deadline=None)
@given(st.lists(st.tuples(CELL.filter(bool), CELL), min_size=1, max_size=5))
def test_any_csv_text_comes_back(cells: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.csv"
        with path.open("w", encoding="utf-8", newline="") as out:
            csv.writer(out).writerows([("prompt", "note"), *cells])
        read = list(PromptFile.of(path).rows())
    assert [row.error for row in read] == [None] * len(cells)
    assert [(row.data["prompt"], row.data["note"] or "") for row in read] == cells


# --- Parquet ---------------------------------------------------------------------------------


def test_parquet_rows(tmp_path: Path) -> None:
    prompt, chat = from_parquet(
        tmp_path,
        {
            "id": pa.array([5, None], pa.int64()),
            "prompt": pa.array(["a", None]).dictionary_encode(),
            "messages": [None, [{"role": "user", "content": "hi", "name": None}]],
            "max_tokens": pa.array([256.0, None]),
            "temperature": pa.array([Decimal("0.5"), None]),
            "stop": [["x"], None],
            "tags": [["t"], []],
        },
    )
    assert prompt.request
    assert chat.request
    assert (prompt.id, prompt.row, prompt.line) == ("5", 0, 1)
    assert (chat.id, chat.row, chat.line) == ("1", 1, 2)
    assert prompt.request.model_fields_set == {"id", "prompt", "max_tokens", "temperature", "stop"}
    assert (prompt.request.max_tokens, prompt.request.temperature) == (256, 0.5)
    assert chat.request.messages == CHAT
    assert Format.PARQUET.dialect.columns(prompt.data)["tags"] == ["t"]


def test_messages_may_be_json_text_in_parquet(tmp_path: Path) -> None:
    [row] = from_parquet(tmp_path, {"messages": [json.dumps(CHAT)]})
    assert row.request
    assert row.request.messages == CHAT


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (pa.array([Decimal("0.10")]), "0.10"),
        (pa.array([dt.date(2026, 1, 2)]), "2026-01-02"),
        (pa.array([dt.datetime(2026, 1, 2, 3)]), "2026-01-02 03:00:00.000000"),
        (pa.array([dt.time(3, 4)]), "03:04:00.000000"),
        (pa.array([b"text"]), "text"),
        (pa.array([b"\xff"]), {"base64": "/w=="}),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), [["k", 1]]),
        (pa.array([{"a": {"b": [b"x"]}}]), {"a": {"b": ["x"]}}),
        (pa.array([True]), True),
        (pa.nulls(1), None),
    ],
)
def test_parquet_values_become_json(tmp_path: Path, array: pa.Array, value: Any) -> None:
    [row] = from_parquet(tmp_path, {"prompt": ["p"], "x": array})
    assert row.data["x"] == value
    assert json.loads(json.dumps(row.data)) == row.data
    assert Format.PARQUET.dialect.request(row.data) == row.request


def test_bad_parquet_rows_spoil_no_others(tmp_path: Path) -> None:
    invalid = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    stop = pa.array([b"\xff\xd8", b"x", b"ok"])
    read = from_parquet(tmp_path, pa.table({"prompt": invalid, "stop": stop}))
    assert "stop can't be carried: it holds bytes that are not UTF-8 text" in str(read[0].error)
    assert "prompt can't be carried: " in str(read[1].error)
    assert read[2].error is None
    assert [row.row for row in read] == [0, 1, 2]


def test_a_date_that_has_no_form_spoils_its_row_only(tmp_path: Path) -> None:
    seconds = pa.array([253402300799, 253402300800, None, -(10**12)], pa.timestamp("s"))
    read = from_parquet(tmp_path, {"prompt": ["a"] * 4, "at": seconds})
    assert read[0].data["at"] == "9999-12-31 23:59:59.000"
    assert [row.error is None for row in read] == [True, False, True, False]
    assert str(read[1].error).startswith("at can't be carried: ")


def test_gaps_of_pandas_are_null_in_fields_and_stay_in_other_columns(tmp_path: Path) -> None:
    gap = pa.array([float("nan")])
    [row] = from_parquet(tmp_path, {"prompt": ["p"], "max_tokens": gap, "rating": gap})
    assert row.data["max_tokens"] is None
    assert math.isnan(row.data["rating"])


@pytest.mark.parametrize(
    ("name", "array", "kept"),
    [
        ("prompt", pa.array(["a"]).dictionary_encode(), "string"),
        ("prompt", pa.array([b"a"]), None),
        ("max_tokens", pa.array([5], pa.int16()), "int16"),
        ("temperature", pa.array([0.5], pa.float32()), "float"),
        ("temperature", pa.array([Decimal("0.5")]), None),
        ("temperature", pa.array(["0.5"]), None),
        ("stop", pa.array(["x"]), None),
        ("stop", pa.array([["x"]]), {"list": "string"}),
        ("image", pa.array(["a.png"]), "string"),
        ("image", pa.array([b"\xff"]), None),
        ("images", pa.array(["a.png"]), None),
        ("images", pa.array([[{"bytes": b"\xff", "path": "a"}]]), None),
        ("at", pa.array([5], pa.timestamp("ns", "Asia/Tokyo")), "timestamp[ns, tz=Asia/Tokyo]"),
        ("b", pa.array([b"\xff"]), "binary"),
    ],
)
def test_columns_keep_the_types_that_a_parquet_file_says(
    tmp_path: Path, name: str, array: pa.Array, kept: Any
) -> None:
    """Fields whose values are converted, as decimal numbers are, have types found by looking."""
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"id": ["a"], name: array}), path)
    assert PromptFile.of(path).column_types().get(name) == kept


@pytest.mark.parametrize(
    ("type", "words"),
    [
        (
            pa.struct([("a\0b", pa.int64())]),
            r"column 'x' can't be .* a field whose name has a NUL, 'a\\x00b': rename it",
        ),
        (pa.struct([("a", pa.int64()), ("a", pa.int64())]), "two fields with the name 'a'"),
    ],
)
def test_a_type_that_no_dataset_has_is_the_files_error(
    tmp_path: Path, type: pa.DataType, words: str
) -> None:
    with pytest.raises(InputFileError, match=words):
        from_parquet(tmp_path, {"prompt": ["a"], "x": pa.nulls(1, type)})


@pytest.mark.parametrize(
    ("column", "source"),
    [
        ({"bytes": b"\xff\xd8", "path": "a.jpg"}, "data:;base64,/9g="),
        ({"bytes": b"P1 1 1 1", "path": None}, "data:;base64,UDEgMSAxIDE="),
        ({"bytes": None, "path": "a.jpg"}, "/a.jpg"),
        (b"\xff\xd8", "data:;base64,/9g="),
        (b"a.jpg", "/a.jpg"),
    ],
)
def test_image_columns_of_hugging_face_are_images(tmp_path: Path, column: Any, source: str) -> None:
    if isinstance(column, dict):
        image = pa.array([column], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    else:
        image = pa.array([column])
    for name, array in (("image", image), ("images", pa.array([image.to_pylist()]))):
        if isinstance(column, dict):
            array = array.cast(image.type if name == "image" else pa.list_(image.type))
        [row] = from_parquet(tmp_path, {"prompt": ["p"], name: array})
        assert row.request
        assert row.request.images[0] in (source, f"{tmp_path}{source}")
        own = Format.PARQUET.dialect.columns(row.data)[name]
        named = (isinstance(column, dict) and column["path"]) or source.lstrip("/")
        assert own == (named if name == "image" else [named])


def test_a_long_image_is_abridged_in_its_column(tmp_path: Path) -> None:
    image = pa.array([{"bytes": b"\xff" * 1000, "path": None}])
    [row] = from_parquet(tmp_path, {"prompt": ["p"], "image": image})
    own = Format.PARQUET.dialect.columns(row.data)
    assert own["image"] == "data:;base64,… (1000 bytes)"


def test_parquet_values_out_of_range(tmp_path: Path) -> None:
    bad, good = from_parquet(tmp_path, {"prompt": [5, None], "messages": [None, json.dumps(CHAT)]})
    assert "prompt=5" in str(bad.error)
    assert good.error is None


@pytest.mark.parametrize("columns", [{"question": ["a"]}, {"prompt": ["a"], "topP": [1.0]}])
def test_wrong_parquet_columns_are_the_files_error(tmp_path: Path, columns: Any) -> None:
    with pytest.raises(InputFileError, match=r"question|topP"):
        from_parquet(tmp_path, columns)


def test_a_parquet_file_without_rows_is_empty(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="is empty: it holds no rows"):
        from_parquet(tmp_path, {"prompt": pa.array([], pa.string())})


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    path.write_bytes(b"PAR1" + b"x" * 50)
    with pytest.raises(InputFileError, match="can't be read as Parquet"):
        list(read_requests(path))


def test_large_parquet_files_are_read_in_batches(tmp_path: Path) -> None:
    table = {"prompt": [f"{index:01000d}" for index in range(20_000)]}
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table(table), path)
    tracemalloc.start()
    assert [row.row for row in PromptFile.of(path).rows()] == list(range(20_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000  # Python objects of the whole file would take 20 MB
