"""`parsed`: the Arrow type that a schema's answers have, and the answers as its values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from jobs.column_types import arrow_type
from jobs.dataset import verify
from jobs.parsed import ParsedType, parsed_type, parser
from tests.helpers.bench import Bench
from tests.helpers.engines import Asked, DoubleEngine
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.structured_outputs import StructuredOutputs

TEXT = {"type": "string"}


def outputs_of(schema: Any) -> StructuredOutputs:
    return StructuredOutputs.of({"json": schema})


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("schema", "spec"),
    [
        (of(a=TEXT, b={"type": "integer"}), {"struct": {"a": "string", "b": "int64"}}),
        (of(a={"type": "number"}, b={"type": "boolean"}), {"struct": {"a": "double", "b": "bool"}}),
        (of(a={"type": ["string", "null"]}), {"struct": {"a": "string"}}),
        (of(a={"anyOf": [TEXT, {"type": "null"}]}), {"struct": {"a": "string"}}),
        (of(a={"anyOf": [{"type": "integer"}, {"type": "number"}]}), {"struct": {"a": "double"}}),
        (of(a={"enum": ["x", "y", None]}), {"struct": {"a": "string"}}),
        (of(a={"enum": [1, 2]}, b={"const": 1.5}), {"struct": {"a": "int64", "b": "double"}}),
        (of(a={"enum": [2**63]}), {"struct": {"a": "double"}}),
        (of(a={"const": True}), {"struct": {"a": "bool"}}),
        (of(a=of(b=TEXT)), {"struct": {"a": {"struct": {"b": "string"}}}}),
        ({"type": "array", "items": of(a=TEXT)}, {"list": {"struct": {"a": "string"}}}),
        ({"$defs": {"A": of(a=TEXT)}, "$ref": "#/$defs/A"}, {"struct": {"a": "string"}}),
        ({"type": "integer"}, "int64"),
        (of(a={"enum": ["x", 1]}), "json"),
        (of(a={"enum": [True, 1]}), "json"),
        (of(a={}), "json"),
        (of(a={"type": ["string", "integer"]}), "json"),
        (of(a={"type": "array"}), "json"),
        (of(a={"type": "null"}), "json"),
        (of(a=TEXT, A=TEXT), "json"),
        ({**of(a=TEXT), "additionalProperties": True}, "json"),
        ({"type": "object", "additionalProperties": TEXT}, "json"),
        ({"type": "object"}, "json"),
        ({"$defs": {"A": of(a={"$ref": "#/$defs/A"})}, "$ref": "#/$defs/A"}, "json"),
        ({"anyOf": [of(a=TEXT), of(b=TEXT)]}, "json"),
    ],
)
def test_types_of_schemas(schema: Any, spec: Any) -> None:
    found = parsed_type(outputs_of(schema))
    assert found == spec
    assert arrow_type(found)


def test_what_is_no_json_is_not_parsed() -> None:
    assert parsed_type(StructuredOutputs.of({"choice": ["a"]})) is None
    assert parsed_type(StructuredOutputs.of({"regex": "a"})) is None
    assert parsed_type(StructuredOutputs.of({"json_object": True})) == "json"


def test_rows_of_one_type_have_it_and_others_are_json() -> None:
    one, same, other = (
        outputs_of(of(a=TEXT)),
        outputs_of(of(a={"enum": ["x"]})),
        outputs_of(of(b=TEXT)),
    )
    for rows, spec in [
        ([], "json"),
        ([None, one, None], {"struct": {"a": "string"}}),
        ([one, same], {"struct": {"a": "string"}}),
        ([one, StructuredOutputs.of({"choice": ["a"]})], {"struct": {"a": "string"}}),
        ([one, other, one], "json"),
        ([one, StructuredOutputs.of({"json_object": True})], "json"),
    ]:
        found = ParsedType()
        for each in rows:
            found.observe(each)
        assert found.type == spec


@pytest.mark.parametrize(
    ("spec", "text", "value"),
    [
        ({"struct": {"a": "string", "b": "double"}}, '{"b": 1}', {"a": None, "b": 1.0}),
        ({"list": "int64"}, "[1, null]", [1, None]),
        ("json", '{"b": 1}', '{"b": 1}'),
        ("int64", str(2**63), None),
        ("double", "1" + "0" * 400, None),
        ({"struct": {"a": "int64"}}, '{"a": 99999999999999999999}', None),
    ],
)
def test_values(spec: Any, text: str, value: Any) -> None:
    found = parser(spec)(text)
    assert found == value
    assert pa.array([found], arrow_type(spec)).to_pylist() == [value]


SCHEMA = of(name=TEXT, size={"type": "integer"})


class Saying(DoubleEngine):
    """Answers every other row with an object; the others were cut."""

    def _answer(self, row: Asked) -> None:
        number = int(str(row.prompt).split()[-1])
        whole = json.dumps({"name": f"n{number}", "size": number})
        text, complete = (whole, True) if number % 2 == 0 else (whole[:9], False)
        if not row.params.structured_outputs:
            complete = None
        reason: Any = "stop" if complete else "length"
        model = "smollm2-135m"
        row.future.set_result(GenerationOutput(text, 3, 2, reason, model, complete=complete))


@pytest.mark.parametrize("typed", [True, False])
def test_a_dataset_has_the_values(typed: bool, bench: Bench) -> None:
    schema = SCHEMA if typed else {**SCHEMA, "additionalProperties": True}
    spec = bench.enqueue(4, 2, sampling=SamplingParams.of(structured_outputs={"json": schema}))
    bench.burst(Saying())

    assert verify(Path(spec.out)).complete
    found = pl.read_parquet(f"{spec.out}/data/*.parquet").sort("row")["parsed"].to_list()
    values = [{"name": f"n{n}", "size": n} if n % 2 == 0 else None for n in range(4)]
    assert found == (values if typed else [each and json.dumps(each) for each in values])
    kind = "struct<name: string, size: int64>" if typed else "string (JSON)"
    assert f"| `parsed` | {kind} |" in (Path(spec.out) / "README.md").read_text()


def test_without_constraints_nothing_is_parsed(bench: Bench) -> None:
    spec = bench.enqueue(2, 2)
    bench.burst(Saying())
    rows = pl.read_parquet(f"{spec.out}/data/*.parquet")
    assert rows["parsed"].to_list() == [None, None]
