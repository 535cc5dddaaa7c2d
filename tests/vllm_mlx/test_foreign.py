"""Settings of other systems are refused by name, where they ask for something."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.sources.dialect import FIELDS
from jobs.sources.openai import OpenAI
from jobs.sources.plain import Plain
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.foreign import FOREIGN, OF_OPENAI, Foreign, refusal_of
from vllm_mlx.sampling_params import SamplingParams

CHAT = [{"role": "user", "content": "hi"}]
OF_KINDS: dict[type, Any] = {bool: True, int: 7, float: 7.5, str: "x", list: ["x"], dict: {"x": 1}}
NAMES = sorted(FOREIGN)


def test_what_acts_is_no_setting_of_others() -> None:
    assert not FOREIGN.keys() & FIELDS


def asking(foreign: Foreign) -> Any:
    """A value that is none of the neutral ones."""
    values = [OF_KINDS[kind] for kind in foreign.kinds] + ["x"]
    return next(value for value in values if value not in foreign.neutral)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_refused_by_name_wherever_it_is_given(name: str) -> None:
    value, advice = asking(FOREIGN[name]), FOREIGN[name].advice
    with pytest.raises(InvalidRequestError) as in_a_row:
        Plain().request({"prompt": "p", name: value})
    assert str(in_a_row.value) == (
        f"{name}: not supported; {advice}. Rename it if it is a column of yours"
    )
    body = {"messages": CHAT, name: value}
    with pytest.raises(InvalidRequestError) as in_a_batch:
        OpenAI().request({"custom_id": "a", "url": "/v1/chat/completions", "body": body})
    assert str(in_a_batch.value) == f"body.{name}={value!r}: not supported; {advice}"
    with pytest.raises(InvalidRequestError) as in_a_call:
        SamplingParams.of(**{name: value})
    assert str(in_a_call.value) == f"{name}: not supported; {advice}"


@pytest.mark.parametrize("name", NAMES)
def test_what_asks_for_nothing_is_no_refusal(name: str) -> None:
    for value in (
        None,
        [],
        *([] if FOREIGN[name].empty_acts else [{}]),
        "",
        *FOREIGN[name].neutral,
    ):
        assert SamplingParams.of(**{name: value}) == SamplingParams.of()
        row = {"prompt": "p", name: value}
        assert Plain().request(row).prompt == "p"
        assert Plain().columns(row) == row
        body = {"messages": CHAT, name: value}
        data = {"custom_id": "a", "url": "/v1/chat/completions", "body": body}
        assert OpenAI().request(data).messages == CHAT
        assert OpenAI().columns(data) == {"messages": CHAT}


def test_at_openai_an_empty_object_switches_the_search_on() -> None:
    assert refusal_of("web_search_options", {})
    assert refusal_of("web_search_options", "{}")
    body = {"messages": CHAT, "web_search_options": {}}
    with pytest.raises(InvalidRequestError, match=r"^body\.web_search_options={}: not supported"):
        OpenAI().request({"custom_id": "a", "url": "/v1/chat/completions", "body": body})


@pytest.mark.parametrize("name", sorted(OF_OPENAI))
def test_what_openais_rows_have_besides_is_refused_by_name_in_a_call(name: str) -> None:
    assert SamplingParams.of(**{name: None}) == SamplingParams.of(**{name: ""})
    with pytest.raises(InvalidRequestError) as told:
        SamplingParams.of(**{name: "x"})
    assert str(told.value) == f"{name}: not supported; {OF_OPENAI[name]}"


@pytest.mark.parametrize(
    ("name", "value"),
    [("stream", "physics"), ("watermark", "left"), ("max_length", "long"), ("audio", "a.wav")],
)
def test_columns_that_are_called_alike_are_carried(name: str, value: str) -> None:
    row = {"prompt": "p", name: value}
    assert Plain().request(row).prompt == "p"
    assert Plain().columns(row) == row


@pytest.mark.parametrize(
    ("cell", "refused"),
    [("true", True), ("True", True), ("false", False), ("FALSE", False), ("1", False)],
)
def test_cells_of_tables_are_text(cell: str, refused: bool) -> None:
    assert (refusal_of("stream", cell) is not None) == refused
    assert refusal_of("best_of", "1") is None
    assert refusal_of("best_of", "2")
