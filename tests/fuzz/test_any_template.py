"""Rows and templates of any content: a request that a worker makes, too, or an error of the row."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.dataset import ColumnTypes, dataset_names
from jobs.sources import RawRow, Template
from jobs.sources.rendering import compiled
from jobs.sources.row_maker import RowMaker
from jobs.sources.templated import Templated
from tests.helpers.strategies import JSON, any_of, cases, only
from vllm_mlx.errors import InvalidRequestError

CHAT = [
    {"role": "system", "content": "{{ a }}"},
    {"role": "user", "content": [{"type": "text", "text": "{% for x in b %}{{ x }}{% endfor %}"}]},
]
TEMPLATES = {
    "prompt": Template.of(prompt="{{ a }}{{ b[0] }}"),
    "system": Template.of(system="{{ a | upper }}", image_column="b"),
    "both": Template.of(prompt="{{ a }}", system="{{ b }}", id_column="a"),
    "messages": Template.of(messages=CHAT, video_column="image"),
    "columns": Template.of(id_column="b", image_column="a"),
}
TURNS = st.lists(any_of({"from": "human", "value": "a", "role": "user", "content": "a"}))
FIELDS = {"a": "x", "b": ["y"], "id": 1, "image": "i", "images": ["i"], "n": 1, "input_prompt": 1}
ROWS = any_of({**FIELDS, "prompt": "p"}) | st.builds(
    lambda row, turns, name: {**row, name: turns},
    any_of(FIELDS),
    TURNS,
    st.sampled_from(["messages", "conversations"]),
)


@pytest.mark.parametrize("name", TEMPLATES)
def test_any_row(name: str) -> None:
    make, dialect = RowMaker(TEMPLATES[name]), Templated(TEMPLATES[name])

    @cases(0.03)
    @given(data=ROWS)
    def check(data: Any) -> None:
        if not isinstance(data, dict):
            return
        made = make(RawRow(0, 1, data, None))
        columns = dialect.columns(made.data)
        types = ColumnTypes()
        types.observe(columns)
        assert len(dataset_names(types.types)) == len(columns)
        dialect.own_id(made.data)
        with only(InvalidRequestError):
            if made.error is not None:
                raise made.error
            request = dialect.request(made.data)
            assert dialect.samples(made.data, 1) >= 1
            sent = json.loads(json.dumps(made.data))
            assert dialect.request(sent) == request

    check()


_MARKS = ["{{", "}}", "{%", "%}", "{#", ".", "[0]", "|", "(", ")", "'", "*", "-", " "]
_WORDS = ["a", "b", "9", "tojson", " for x in b ", "if", "endif", "set x=", "include", "__class__"]
PIECES = st.sampled_from(_MARKS + _WORDS)


@cases(0.1)
@given(pieces=st.lists(PIECES, max_size=12), row=any_of({"a": "x", "b": ["y", None]}) | JSON)
def test_any_text(pieces: list[str], row: Any) -> None:
    columns = row if isinstance(row, dict) else {}
    with only(InvalidRequestError, "prompt"):
        assert isinstance(compiled("".join(pieces), "prompt")(columns), str)
