"""Jinja over the columns of a row: what is printed, and what is an error that helps."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.sources.rendering import compiled
from vllm_mlx.errors import InvalidRequestError

COLUMNS = {
    "title": "Löffel <1>",
    "none": None,
    "tags": ["a", {"b": 'ü"'}],
    "Review text": "ok",
    "stars": 5,
    "meta": {"items": 3},
}


def rendered(text: str, columns: dict[str, Any] = COLUMNS) -> str:
    return compiled(text, "prompt")(columns)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ title }}: {{ stars }}", "Löffel <1>: 5"),
        ("plain {text} stays\n", "plain {text} stays\n"),
        ("{{ tags }}", '["a", {"b": "ü\\""}]'),
        ("{{ title | tojson }}", '"Löffel <1>"'),
        ('{{ row["Review text"] }}', "ok"),
        ("{{ meta['items'] }}", "3"),
        ('{{ none or "" }}.', "."),
        ("{% if none %}a{% else %}b{% endif %}", "b"),
        ("{% if x is defined %}a{% endif %}b", "b"),
        ("{{ x | default('y') }}", "y"),
        ("{{ title ~ ' ' ~ stars }}", "Löffel <1> 5"),
        (
            "{% for tag in tags %}\n  {% if loop.first %}\n{{ tag }}\n  {% endif %}\n{% endfor %}",
            "a\n",
        ),
    ],
)
def test_what_is_printed(text: str, said: str) -> None:
    assert rendered(text) == said


def test_a_column_named_row_is_that_column() -> None:
    assert rendered("{{ row }}", {"row": 7}) == "7"


def test_what_a_column_holds_is_no_template() -> None:
    assert rendered("{{ a }}", {"a": "{{ b }}"}) == "{{ b }}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ titel }}", "prompt: 'titel' is undefined; the row has title, none, tags, Review text"),
        ("{{ row['x'] }}", "prompt: 'x' is undefined; the row has title"),
        ("{{ none }}", 'a value is null in this row; null are none; write {{ none or "" }}'),
        ("{{ stars + title }}", "prompt: TypeError: unsupported operand"),
        ("{{ title.upper }}", "is a function"),
        ("{{ meta.items }}", "is a function"),
        ("{{ title.__class__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        (
            "{{ tags.append(1) }}",
            "attribute 'append' of 'list' object is unsafe; the row",
        ),
        ("{% include 'x' %}", "no loader"),
        ("{% for x in range(9999999) %}{% endfor %}", "Range too big"),
        ('{{ "a" * 10000001 }}', "prompt: it makes more than 10,000,000 characters; the row has"),
        ("{% for x in range(99999) %}{{ title * 100 }}{% endfor %}", "it makes more than 10,000"),
    ],
)
def test_what_goes_wrong_in_a_row_is_told(text: str, words: str) -> None:
    render = compiled(text, "prompt")
    with pytest.raises(InvalidRequestError) as told:
        render(COLUMNS)
    assert words in str(told.value)


def test_a_null_is_told_by_the_name_that_a_template_gives_it() -> None:
    with pytest.raises(InvalidRequestError) as told:
        rendered('{{ row["My text"] }}', {"other": None, "My text": None})
    assert 'null are My text; write {{ row["My text"] or "" }} for' in str(told.value)


def test_a_row_without_columns() -> None:
    with pytest.raises(InvalidRequestError, match="the row has no columns"):
        rendered("{{ a }}", {})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\n{{ b | uper }}", "system, line 2: No filter named 'uper'; did you mean upper?"),
        ("a\n{{ b | foo }}", "system, line 2: No filter named 'foo'; there are only Jinja's own"),
        ("{{ b is qqq }}", "system, line 1: No test named 'qqq'; there are only Jinja's own"),
    ],
)
def test_a_filter_that_is_not_there(text: str, told: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        compiled(text, "system")
    assert str(caught.value) == told


@pytest.mark.parametrize("text", ["a\n{{ b", "a\n{% if %}"])
def test_what_is_no_jinja_is_refused_at_once(text: str) -> None:
    with pytest.raises(InvalidRequestError, match=r'system, line 2: .* is {{ row\["Review text"\]'):
        compiled(text, "system")
