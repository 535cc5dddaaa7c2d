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


LOOPS = "{% for x in range(99999) %}"
LONG = [
    '{{ "a" * 1000000000 }}',
    "{{ [1] * 1000000000 }}",
    "{{ 1000000000 * title }}",
    "{{ stars ** 1000000000 }}",
    '{{ "%1000000000d" % stars }}',
    '{{ "%*d" % (1000000000, stars) }}',
    '{{ "{:1000000000}".format(stars) }}',
    '{{ "{:{}}".format(stars, 1000000000) }}',
    '{{ "%1000000000d" | format(stars) }}',
    "{{ title | center(1000000000) }}",
    "{{ title.ljust(1000000000) }}",
    '{{ "\t".expandtabs(1000000000) }}',
    "{{ title | indent(1000000000, first=true) }}",
    '{{ ("a" * 9999).replace("a", "a" * 9999) }}',
    '{{ ("a" * 9999) | replace("a", "a" * 9999) }}',
    '{{ ([1] * 9999) | join("a" * 9999) }}',
    '{{ ("{0}" * 9999).format("a" * 9999) }}',
    '{{ "%s%s" % ("a" * 6000000, "a" * 6000000) }}',
    "{{ range(99999) | map('center', 9999) | join }}",
    "{{ ''.join(range(99999) | map('center', 9999)) }}",
    "{% set x = 10 ** 99 %}" + "{% set x = x * x %}" * 40,
    "{% set x = 'a' * 999999 %}" + "{% set x = x ~ x %}" * 40 + "{{ x | length }}",
    "{% set x = 'a' * 999999 %}" + "{% set x = x + x %}" * 40 + "{{ x | length }}",
    LOOPS + "{{ title * 100 }}{% endfor %}",
    LOOPS + "a" * 999 + "{% endfor %}",
    "{% set x %}" + LOOPS + "{{ title * 100 }}{% endfor %}{% endset %}{{ x | length }}",
]
"""Texts, and values on the way to one, that would take all memory."""
ENDLESS = [
    LOOPS + LOOPS + "{% endfor %}{% endfor %}",
    "{% for x in [1, 2] recursive %}{% if loop.depth < 40 %}{{ loop([1, 2]) }}{% endif %}"
    "{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
]


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
        ("{{ 'a' * 3 + '%03d' % stars }}{{ 2 ** 10 }}", "aaa0051024"),
        ("{{ title | replace('L', 'l') | center(12) }}.", " löffel <1> ."),
        ("{{ '{:,}'.format(12345678901) }} {{ [1, 2] | join(', ') }}", "12,345,678,901 1, 2"),
        ("{% macro f(n) %}[{{ n }}]{% endmacro %}{{ f(1) }}{{ f(2) }}", "[1][2]"),
        ("{% for x in [1, 2] %}{{ loop.index }}/{{ loop.length }} {% endfor %}", "1/2 2/2 "),
        ("{{ '* 20261128 %d {{' % 12345678 }}", "* 20261128 12345678 {{"),
        ("{{ '{{20261128: {:>3}}} 20261128'.format(1) }}", "{20261128:   1} 20261128"),
        ("{% for x in [] %}a{% else %}b{% endfor %}", "b"),
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
        *((text, "prompt: the template makes more than 10,000,000 characters") for text in LONG),
        ("{{ tags | tojson(indent=1000000000) }}", "indent=1000000000): should be 32 or less"),
        ("{{ lipsum(n=1000000) }}", "'lipsum' is undefined"),
    ],
)
def test_what_goes_wrong_in_a_row_is_told(text: str, words: str) -> None:
    render = compiled(text, "prompt")
    with pytest.raises(InvalidRequestError) as told:
        render(COLUMNS)
    assert words in str(told.value)


def test_what_is_made_on_the_way_is_bounded() -> None:
    with pytest.raises(InvalidRequestError, match="100,000,000 characters on the way to the text"):
        rendered("{{ range(99999) | map('center', 9999) | list | length }}")


@pytest.mark.parametrize("text", ENDLESS)
def test_steps_are_bounded(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.sources.render_bounds.MOST_STEPS", 1000)
    with pytest.raises(InvalidRequestError) as told:
        rendered(text)
    assert str(told.value) == (
        "prompt: the template takes more than 1,000 steps of its loops for one row"
    )


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
