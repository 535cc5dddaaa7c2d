"""`StructuredOutputs`: every way to ask for one, and everything that is refused on the producer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher

from tests.helpers.grammars import ALPHABET, grammars
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.json_schema import KEYWORDS, require_keywords
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.structured_outputs import StructuredOutputs

SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"const": 1}}}
TEXT = '{"type":"object","properties":{"b":{"type":"string"},"a":{"const":1}}}'


@pytest.mark.parametrize(
    ("given", "kind", "value"),
    [
        ({"json": SCHEMA}, "json", TEXT),
        ({"json": json.dumps(SCHEMA)}, "json", TEXT),
        (json.dumps({"json": SCHEMA}), "json", TEXT),
        ({"json": SCHEMA, "regex": None, "json_object": False}, "json", TEXT),
        ({"regex": "a+"}, "regex", "a+"),
        ({"choice": ["b", "a"]}, "choice", ("b", "a")),
        ({"grammar": 'start: "a"'}, "grammar", 'start: "a"'),
        ({"grammar": 'root ::= "a" | "b"'}, "grammar", 'root ::= "a" | "b"'),
        ({"json_object": True}, "json_object", ""),
        ({"type": "text"}, "text", ""),
    ],
)
def test_ways_to_ask_and_back(given: Any, kind: str, value: Any) -> None:
    params = SamplingParams.of(structured_outputs=given)
    found = params.structured_outputs
    assert found is not None
    assert (found.kind, found.value) == (kind, value)
    assert bool(found) == (kind != "text")
    again = SamplingParams.model_validate_json(params.model_dump_json())
    assert again.structured_outputs == found


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
            {"json": SCHEMA},
        ),
        ({"type": "json_object"}, {"json_object": True}),
        ({"type": "text"}, {"type": "text"}),
    ],
)
def test_response_formats(given: Any, same: Any) -> None:
    expected = SamplingParams.of(structured_outputs=same)
    assert SamplingParams.of(response_format=given) == expected
    assert SamplingParams.of(response_format=json.dumps(given)) == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "give exactly one of json, regex, choice, grammar, json_object"),
        ({"json": {}, "regex": "a"}, "give exactly one of"),
        ({"regexp": "a"}, "regexp: unknown field; allowed are json, regex"),
        ("json", "not JSON"),
        (3, "should be an object"),
        ({"json": True}, "should be a JSON schema, an object"),
        ({"json": {"type": "strin"}}, "Invalid type: strin"),
        ({"json": {"maxlength": 1}}, r"\$.maxlength: unknown keyword .* did you mean maxLength"),
        (
            {"json": {"properties": {"a": {"anyOf": [{"minimun": 1}]}}}},
            r"\$.properties.a.anyOf\[0\].minimun: .* did you mean minimum",
        ),
        ({"json": {"$defs": {"A": {"nullable": True}}}}, r"\$.\$defs.A.nullable: .*null"),
        ({"json": {"x-guidance": {"lenient": True}}}, "x-guidance: unknown keyword"),
        ({"json": {"type": "array", "uniqueItems": True}}, "not supported: uniqueItems; leave it"),
        ({"json": {"not": {"type": "null"}}}, "not supported: .*not"),
        ({"json": {"type": "string", "format": "colour"}}, "Unknown format: colour; .*a pattern"),
        ({"json": {"type": "integer", "exclusiveMinimum": True}}, "exclusiveMinimum=True: .*bound"),
        ({"json": {"maximum": 10**23}}, r"\$.maximum=1000.*more than 64 bits; give a smaller"),
        ({"json": {"maxLength": 1e23}}, r"\$.maxLength=999.*more than 64 bits"),
        ({"json": {"type": "string", "pattern": "(a"}}, r"'\(a' is no expression .*unclosed group"),
        ({"json": {"$ref": "https://example.org/a.json"}}, "example.org"),
        ({"json": {"type": "integer", "minimum": 3, "maximum": 2}}, "Unsatisfiable"),
        ({"json": False}, "json=False: should be a JSON schema"),
        ({"json": {"oneOf": [{}, {"minimum": 1}]}}, "oneOf: not supported where .*anyOf"),
        ({"json": {"default": float("nan")}}, r"json: \$.default=nan: is no number in JSON"),
        ({"json": {"properties": {}, "required": [["a"]]}}, "json: "),
        ({"regex": "(a"}, "regex: .*unclosed group"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"regex": ""}, "regex='': should be a string"),
        ({"choice": []}, "should be a list of strings"),
        ({"choice": "ab"}, "should be a list of strings"),
        ({"choice": ["a", 1]}, "1 should be a string"),
        ({"choice": ["a", ""]}, "'' should be a string"),
        ({"choice": ["a", "b", "a"]}, "'a' stands there twice"),
        ({"choice": ["a", "\ud800"]}, r"choice\[1\]='\\ud800': holds .*, half a surrogate pair"),
        ({"regex": "a\ud800"}, "regex=.* half a surrogate pair, which is no text: leave it out"),
        ({"grammar": 'start: "\ud800"'}, "grammar=.* half a surrogate pair"),
        ({"json": '{"enum": ["\\ud800"]}'}, r"json: \$.enum\[0\]=.* half a surrogate pair"),
        ({"json": {"properties": {"\ud800": {}}}}, r"a name in \$.properties=.* half a surrogate"),
        ({"regex": r"a\b"}, "word boundary, which is not supported"),
        ({"regex": "(a{1000}){1000}"}, "stands for 1,000,000 characters .*allowed are 10,000"),
        ({"json": {"pattern": "^(ab{99}){101}$"}}, r"\$.pattern=.*10,102 characters"),
        ({"json": {"patternProperties": {"a{9999}bc": {}}}}, "patternProperties=.*10,001"),
        ({"json": {"pattern": "a*", "minLength": 10001}}, r"\$.minLength=10001: .*10,001"),
        ({"grammar": 'start: b{1000}\nb: "a"{1000}'}, "1,000,000 characters"),
        ({"grammar": "start: a\na: b\nb: a"}, "a rule leads to itself without an end"),
        ({"grammar": 'begin: "a"'}, "no rule `root ::= …`, and as Lark no rule `start: …`"),
        ({"grammar": "root ::= b"}, "grammar: as GBNF: Rule 'b' not found"),
        ({"grammar": "start: (b"}, "grammar: line 1, column 10: "),
        ({"grammar": 'start: %json {"maxlength": 3}'}, r"%json: \$.maxlength: .*maxLength"),
        ({"grammar": 'start: %json {"x-guidance": {"lenient": true}}'}, "x-guidance"),
        ({"json_object": "yes"}, "should be true"),
    ],
)
def test_what_is_refused(given: Any, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"(?s)structured_outputs=.*{words}"):
        SamplingParams.of(structured_outputs=given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"type": "json"}, "type should be text, json_object or json_schema"),
        ({"type": "structural_tag"}, "type should be text, json_object or json_schema"),
        ("text", 'should be an object: {"type": "text"}'),
        ("json_object", 'should be an object: {"type": "json_object"}'),
        ("json", "not JSON"),
        ({"type": "json_schema"}, "json_schema.schema: missing"),
        ({"type": "json_schema", "json_schema": {"schema": {"typ": 1}}}, "did you mean type"),
    ],
)
def test_response_formats_that_are_refused(given: Any, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"response_format: .*{words}"):
        SamplingParams.of(response_format=given)


def test_two_ways_at_once_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="one of structured_outputs and response_format"):
        SamplingParams.of(structured_outputs={"regex": "a"}, response_format={"type": "text"})


@pytest.mark.parametrize(
    "other", [{"stop": "b"}, {"stop_token_ids": 3}, {"min_tokens": 1}, {"ignore_eos": True}]
)
def test_what_else_says_where_an_answer_ends_is_refused(other: Any) -> None:
    (name,) = other
    with pytest.raises(InvalidRequestError, match=f"{name}=.*where structured_outputs says"):
        SamplingParams.of(structured_outputs={"regex": "a"}, **other)
    assert SamplingParams.of(structured_outputs={"type": "text"}, **other)


def test_a_schema_nested_without_end_is_refused() -> None:
    for depth in (200, 5000):
        schema: Any = {}
        for _ in range(depth):
            schema = {"items": schema}
        with pytest.raises(ValueError, match=r"recursion|nested"):
            StructuredOutputs.of({"json": schema})


def test_keywords_of_the_standard_are_known() -> None:
    for keyword in KEYWORDS - {"discriminator"}:
        require_keywords({"properties": {"a": {keyword: 1}}})


def test_names_of_properties_are_no_keywords() -> None:
    schema = {"properties": {"maxlength": {"enum": [{"odd": 1}]}}, "$defs": {"x": {"default": {}}}}
    assert StructuredOutputs.of({"json": schema})


def allows(outputs: Any, text: str) -> bool:
    matcher = grammars().matcher(StructuredOutputs.of(outputs))
    tokens = [ALPHABET.index(char) for char in text]
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def test_the_order_of_properties_is_the_schemas() -> None:
    schema = {**SCHEMA, "required": ["a", "b"]}
    assert allows({"json": schema}, '{"b":"x","a":1}')
    assert not allows({"json": schema}, '{"a":1,"b":"x"}')


@pytest.mark.parametrize(
    "schema",
    [
        SCHEMA,
        {"$defs": {"A": SCHEMA}, "$ref": "#/$defs/A"},
        {"anyOf": [SCHEMA, {"type": "integer"}]},
    ],
)
def test_objects_have_no_properties_that_are_not_named(schema: Any) -> None:
    assert allows({"json": schema}, '{"b":"x","a":1}')
    assert not allows({"json": schema}, '{"b":"x","a":1,"c":2}')


@pytest.mark.parametrize(
    "schema",
    [
        {**SCHEMA, "additionalProperties": True},
        {**SCHEMA, "required": ["c"]},
        {"allOf": [SCHEMA, {"properties": {"c": {"const": 2}}}]},
        {"$defs": {"A": SCHEMA}, "$ref": "#/$defs/A", "properties": {"c": {"const": 2}}},
    ],
)
def test_objects_stay_open_where_that_is_meant(schema: Any) -> None:
    assert allows({"json": schema}, '{"b":"x","a":1,"c":2}')


def test_white_space_is_bounded() -> None:
    for text in ['{"b":"x"}', '{"b": "x"}', '{\n  "b": "x"\n}']:
        assert allows({"json": SCHEMA}, text), text
    for text in ['{  "b":"x"}', "{\n\n}", "{\n" + " " * 33 + "}"]:
        assert not allows({"json": SCHEMA}, text), text


@pytest.mark.parametrize("label", ["a.b", "a|b", "(", "x y", '"', "n\nm", "-", "{1}"])
def test_labels_stand_for_themselves(label: str) -> None:
    characters = [char for char in label if char in ALPHABET]
    assert characters == list(label) or label in ("a|b", "(")
    matcher = LLMatcher.validate_grammar(StructuredOutputs.of({"choice": [label]}).grammar, None)
    assert not matcher
    if label not in ("a|b", "("):
        assert allows({"choice": [label, "zz"]}, label)
        assert not allows({"choice": [label, "zz"]}, "axb")


@pytest.mark.parametrize(
    ("regex", "ascii"),
    [
        (r"\d+", "[0-9]+"),
        (r"[\d.]\w", "[0-9.][0-9A-Za-z_]"),
        (r"\D\W", "[^0-9][^0-9A-Za-z_]"),
        (r"\\d\[\d", r"\\d\[[0-9]"),
        (r"[a&&[\d]]", "[a&&[0-9]]"),
    ],
)
def test_digits_and_letters_are_asciis(regex: str, ascii: str) -> None:
    same = StructuredOutputs.of({"regex": regex}).grammar
    assert same == LLMatcher.grammar_from_regex(ascii)


CAT, DOG = (
    {"type": "object", "properties": {"is": {"const": name}}, "required": ["is"]}
    for name in ("cat", "dog")
)
NODE = "#/$defs/n"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {
            "$defs": {"n": {"type": "array", "items": {"$ref": NODE}, "minItems": 1}},
            "$ref": NODE,
        },
        {"properties": {"a~b": {"allOf": [{"$ref": "#/properties/a~0b"}]}}},
        {
            "$defs": {
                "a": {"anyOf": [{"$ref": "#/$defs/b"}]},
                "b": {
                    "type": "object",
                    "additionalProperties": {"$ref": "#/$defs/a"},
                    "minProperties": 1,
                },
            },
            "$ref": "#/$defs/a",
        },
    ],
)
def test_a_schema_that_leads_to_itself_without_an_end_is_refused(schema: Any) -> None:
    with pytest.raises(ValueError, match=r"leads to itself without an end, .* be null"):
        StructuredOutputs.of({"json": schema})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
        {"$defs": {"n": {"type": "array", "items": {"$ref": NODE}}}, "$ref": NODE},
        {
            "type": "object",
            "properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
            "required": ["a"],
        },
        {"type": "string", "minLength": 100_000},
        {"type": "string", "pattern": "^[a-z]{0,10000}$"},
    ],
)
def test_what_has_an_end_is_taken(schema: Any) -> None:
    assert StructuredOutputs.of({"json": schema})


def test_a_discriminator_is_taken_where_it_adds_nothing() -> None:
    both, named = {"oneOf": [CAT, DOG]}, {"propertyName": "is"}
    refs = {"oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}]}
    mapping = {"cat": "#/$defs/cat", "dog": "#/$defs/dog"}
    defined = {"$defs": {"cat": CAT, "dog": DOG}, **refs}
    assert StructuredOutputs.of({"json": {**both, "discriminator": named}})
    assert StructuredOutputs.of(
        {"json": {**defined, "discriminator": {**named, "mapping": mapping}}}
    )
    for odd in (
        {"type": "object", "discriminator": named},
        {**both, "discriminator": {"propertyName": "kind"}},
        {**both, "discriminator": "is"},
        {"oneOf": [CAT, {"type": "string"}], "discriminator": named},
        {**defined, "discriminator": {**named, "mapping": {"cow": "#/$defs/cat"}}},
    ):
        with pytest.raises(ValueError, match=r"\$.discriminator: bounds nothing by itself"):
            StructuredOutputs.of({"json": odd})
