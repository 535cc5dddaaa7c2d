"""Rows that say what their answers must be, in every kind of file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.requests import GenerationRequest
from jobs.sources import read_requests
from jobs.sources.openai import OpenAI
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.structured_outputs import StructuredOutputs

SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}
ASKED: list[dict[str, Any]] = [
    {"structured_outputs": {"json": SCHEMA}},
    {"structured_outputs": {"choice": ["a", "b"]}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    {"response_format": {"type": "text"}},
    {},
]
FOUND = [
    StructuredOutputs.of({"json": SCHEMA}),
    StructuredOutputs.of({"choice": ["a", "b"]}),
    StructuredOutputs.of({"json": SCHEMA}),
    StructuredOutputs.of({"type": "text"}),
    None,
]


def found_in(path: Path) -> list[StructuredOutputs | None]:
    rows = list(read_requests(path))
    assert [row.error for row in rows] == [None] * len(rows)
    return [row.request.structured_outputs for row in rows if row.request]


def test_in_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": "p", **each}) + "\n" for each in ASKED))
    assert found_in(path) == FOUND


def test_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    names = ["structured_outputs", "response_format"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", *names])
        for each in ASKED:
            cells = [json.dumps(each[name]) if name in each else "" for name in names]
            writer.writerow(["p", *cells])
    assert found_in(path) == FOUND


def test_in_parquet(tmp_path: Path) -> None:
    """A struct has all fields of all rows, null where a row has none; schemas are text."""
    outputs: list[Any] = [{"json": json.dumps(SCHEMA)}, {"choice": ["a", "b"]}]
    pq.write_table(pa.table({"prompt": ["p", "q"], "structured_outputs": outputs}), tmp_path / "p")
    path = (tmp_path / "p").rename(tmp_path / "rows.parquet")
    assert found_in(path) == FOUND[:2]


def test_structs_in_parquet(tmp_path: Path) -> None:
    """What other rows have is null in a struct, at any depth."""
    schemas: list[Any] = [
        {"type": "object", "properties": {"z": {"type": "integer"}}, "required": ["z"]},
        {"type": "object", "properties": {"y": {"enum": ["a", None]}}},
    ]
    tools = [
        [{"type": "function", "function": {"name": "f", "parameters": schema}}]
        for schema in schemas
    ]
    path = tmp_path / "rows.parquet"
    columns: dict[str, Any] = {
        "messages": [[{"role": "user", "content": "x"}]] * 2,
        "structured_outputs": [{"json": schemas[0]}, {"json": schemas[1]}],
        "tools": tools,
        "tool_choice": ["none"] * 2,
        "chat_template_kwargs": [{"a": 1}, {"b": "c"}],
    }
    pq.write_table(pa.table(columns), path)
    assert found_in(path) == [StructuredOutputs.of({"json": schema}) for schema in schemas]
    requests = [row.request for row in read_requests(path) if row.request]
    assert [list(each.tools or ()) for each in requests] == tools
    assert [each.chat_template_kwargs for each in requests] == columns["chat_template_kwargs"]


def test_a_const_in_a_struct_that_may_be_null_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    asked = [{"json": {"const": "a", "type": None}}, {"json": {"const": None, "type": "string"}}]
    pq.write_table(pa.table({"prompt": ["p", "q"], "structured_outputs": asked}), path)
    good, bad = read_requests(path)
    assert good.error is None
    assert str(bad.error) == (
        "structured_outputs can't be carried: structured_outputs.json.const is null, which in a "
        "struct is also what only other rows have: give this column as JSON text"
    )


def test_in_openais_batches() -> None:
    body = {"messages": [{"role": "user", "content": "x"}], **ASKED[2]}
    data = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    assert OpenAI().request(data).structured_outputs == FOUND[2]


@pytest.mark.parametrize(
    ("default", "own", "result"),
    [
        ({"regex": "a"}, {}, {"regex": "a"}),
        ({"regex": "a"}, {"structured_outputs": {"regex": "b"}}, {"regex": "b"}),
        ({"regex": "a"}, {"response_format": {"type": "text"}}, {"type": "text"}),
    ],
)
def test_a_row_overrides_the_runs_default(default: Any, own: Any, result: Any) -> None:
    sampling = SamplingParams.of(structured_outputs=default)
    params = GenerationRequest.parse({"prompt": "p", **own}).over(sampling)
    assert params.structured_outputs == StructuredOutputs.of(result)


def test_what_of_row_and_run_does_not_go_together_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p"}\n{"prompt": "q", "stop": "x"}\n')
    sampling = SamplingParams.of(structured_outputs={"regex": "a"})
    good, bad = read_requests(path, sampling=sampling)
    assert good.error is None
    assert "stop=('x',): an answer ends where structured_outputs says" in str(bad.error)


def test_a_schema_that_can_not_be_held_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p", "structured_outputs": {"json": {"maxlength": 1}}}\n')
    (row,) = read_requests(path)
    assert "did you mean maxLength" in str(row.error)
