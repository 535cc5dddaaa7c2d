"""The official test suite of JSON Schema: what is accepted is held exactly, the rest is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import islice, permutations, product
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from llguidance import LLTokenizer

from vllm_mlx.batching.logits.constraint import Grammars, new_grammars
from vllm_mlx.json_schema import KEYWORDS
from vllm_mlx.models import MLXLanguageModel
from vllm_mlx.structured_outputs import StructuredOutputs

SUITE = Path(__file__).parent.parent / "data" / "json_schema_test_suite"
FILES = sorted(SUITE.glob("*.json"))
# Groups that are accepted, of 368: a change of llguidance may add to them.
ACCEPTED = 168
WITHOUT_ANY = {
    *("boolean_schema", "contains", "defs", "dependentRequired", "dependentSchemas"),
    *("dynamicRef", "if-then-else", "maxContains", "minContains", "not", "propertyNames"),
    *("refRemote", "unevaluatedItems", "unevaluatedProperties", "uniqueItems", "vocabulary"),
}
"""Files of keywords that llguidance does not know, and of schemas that are no objects."""


@cache
def groups(file: Path) -> list[tuple[dict[str, Any], StructuredOutputs | str]]:
    """Return the groups of a file, each with what holds it or why it is refused."""
    found: list[tuple[dict[str, Any], StructuredOutputs | str]] = []
    for group in json.loads(file.read_text()):
        try:
            found.append((group, StructuredOutputs.of({"json": group["schema"]})))
        except ValueError as error:
            found.append((group, str(error)))
    return found


def written(value: Any) -> Iterator[str]:
    """Yield JSON of a value in every order of its keys, whole floats as integers, too."""
    if isinstance(value, dict):
        for pairs in islice(permutations(value.items()), 24):
            names = [json.dumps(name, ensure_ascii=False) for name, _ in pairs]
            for texts in some(each for _, each in pairs):
                members = (":".join(pair) for pair in zip(names, texts, strict=True))
                yield f"{{{','.join(members)}}}"
    elif isinstance(value, list):
        yield from (f"[{','.join(texts)}]" for texts in some(value))
    else:
        yield json.dumps(value, ensure_ascii=False)
        if isinstance(value, float) and value.is_integer():
            yield str(int(value))


def some(values: Any) -> Iterator[tuple[str, ...]]:
    return islice(product(*(list(written(each)) for each in values)), 50)


def is_valid(test: dict[str, Any], schema: Any, outputs: StructuredOutputs) -> bool:
    """Whether an answer may be this value: formats hold, and objects have the named keys only."""
    if not test["valid"] or "only an annotation" in test["description"]:
        return False
    if outputs.schema == schema:
        return True
    assert outputs.schema is not None
    return bool(jsonschema.Draft202012Validator(outputs.schema).is_valid(test["data"]))


@pytest.fixture(scope="module", params=["bytes", "smollm2"])
def tokens(request: pytest.FixtureRequest) -> Any:
    if request.param == "bytes":
        tokenizer = LLTokenizer("byte")
        return Grammars(tokenizer), tokenizer.tokenize_str
    model: MLXLanguageModel = request.getfixturevalue("language_model")
    grammars = new_grammars(model.tokenizer, len(model.tokenizer), "smollm2")
    return grammars, lambda text: model.tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_valid_answers_are_let_through_and_no_other(tokens: Any, file: Path) -> None:
    grammars, encode = tokens
    for group, outputs in groups(file):
        if isinstance(outputs, str):
            continue
        start = grammars.matcher(outputs)
        for test in group["tests"]:
            let_through = False
            for text in written(test["data"]):
                matcher, asked = start.deep_copy(), encode(text)
                taken = matcher.try_consume_tokens(asked)
                let_through |= taken == len(asked) and matcher.is_accepting()
                assert not matcher.is_error()
            expected = is_valid(test, group["schema"], outputs)
            assert let_through == expected, (group["description"], test["description"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_is_refused_is_named(file: Path) -> None:
    refused = [(group, reason) for group, reason in groups(file) if isinstance(reason, str)]
    assert (len(refused) == len(groups(file))) == (file.stem in WITHOUT_ANY)
    for group, reason in refused:
        schema = json.dumps(group["schema"])
        named = [word for word in KEYWORDS if word in reason and f'"{word}"' in schema]
        says_false = "schema is false" in reason and "false" in schema
        is_remote = "http://localhost:1234/" in reason or "https://json-schema.org/" in schema
        is_none = "should be a JSON schema" in reason and isinstance(group["schema"], bool)
        assert named or says_false or is_remote or is_none or "contentSchema" in reason, reason


def test_so_many_groups_are_held() -> None:
    held = sum(not isinstance(outputs, str) for file in FILES for _, outputs in groups(file))
    assert held >= ACCEPTED
