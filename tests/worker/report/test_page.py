"""The page in a headless Chromium: it shows what the Parquet holds, and filters it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest

from tests.helpers.browser import Browser
from tests.helpers.reported import HOSTILE, mixed
from worker.report import write_report

COUNT = "document.getElementById('count').textContent"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(mixed(tmp_path_factory.mktemp("report") / "films"))


@pytest.fixture(scope="module")
def rows(report: Path) -> list[dict[str, Any]]:
    table = pyarrow.dataset.dataset(report.parents[1] / "data").to_table()
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def labels(browser: Browser, title: str) -> list[str]:
    """What the marks of the chart of this title stand for, as a reader of screens says it."""
    found: list[str] = browser.value(
        "[...[...document.querySelectorAll('figure')]"
        f".find((each) => each.querySelector('h3').textContent === '{title}')"
        ".querySelectorAll('svg [aria-roledescription][aria-label]')]"
        ".filter((each) => /bar|rect/.test(each.getAttribute('aria-roledescription')))"
        ".map((each) => each.getAttribute('aria-label'))"
    )
    return found


def ids(browser: Browser) -> list[str]:
    found: list[str] = browser.value(
        "[...document.querySelectorAll('#rows .head b')].map((each) => each.textContent)"
    )
    return found


def test_it_shows_the_figures_of_the_dataset(
    browser: Browser, report: Path, rows: list[dict[str, Any]]
) -> None:
    browser.open(report)

    assert browser.value("document.querySelector('h1').textContent") == "films"
    tiles = browser.value(
        "Object.fromEntries([...document.querySelectorAll('.tile')].map("
        "(each) => [each.children[1].textContent, each.children[0].textContent]))"
    )
    assert (tiles["rows"], tiles["answered"], tiles["in error"]) == ("60", "56", "4")
    tokens = sum(each["completion_tokens"] for each in rows)
    assert tiles["answer tokens"] == f"{tokens:,}"
    ended = [each["finish_reason"] for each in rows]
    assert labels(browser, "How rows ended") == [
        f"{reason}: {ended.count(reason)} of 60 ({ended.count(reason) / 60:.1%})"
        for reason in ("stop", "length", "error")
    ]
    said = labels(browser, "the answer")
    assert {each.partition(":")[0] for each in said} == {"positive", "negative", "neutral"}
    for title in ("Prompt tokens", "Answer tokens"):
        counts = [int(label.split(": ")[1].split()[0]) for label in labels(browser, title)]
        assert sum(counts) == 56
    assert len(labels(browser, "Answer tokens per second")) > 10
    sizes = browser.value("[...document.querySelectorAll('svg')].map((e) => e.clientHeight)")
    assert min(sizes) > 40


def test_rows_are_searched_filtered_and_sorted(
    browser: Browser, report: Path, rows: list[dict[str, Any]]
) -> None:
    browser.open(report)
    assert browser.value(COUNT) == "60 of 60 rows"
    assert ids(browser) == [each["id"] for each in rows[:50]], "the rest follows on demand"
    browser.click("#more")
    assert len(ids(browser)) == 60

    browser.click("#filters input")
    browser.type("Question ROW-1")
    assert ids(browser) == ["row-1", *(f"row-{n}" for n in range(10, 20))]
    assert browser.value("document.querySelector('mark').textContent") == "question"

    browser.open(report, "#q=question+59")
    assert ids(browser) == ["row-59"], "numbers of tokens and times are not searched"
    browser.open(report, "#q=heat")
    assert browser.value(COUNT) == "3 of 60 rows", "a column of the input"

    browser.open(report, "#q=hot&error_type=ValueError")
    assert ids(browser) == ["row-3", "row-23", "row-43"]
    assert "ValueError: temperature=9: too hot" in browser.value(
        "document.querySelector('.row').textContent"
    )

    browser.open(report, "#sort=-completion_tokens&label=negative")
    longest = max(
        (each for each in rows if each["text"] == "negative"),
        key=lambda each: each["completion_tokens"],
    )
    assert ids(browser)[0] == longest["id"]


def test_an_errors_link_shows_its_rows_and_clear_all_again(browser: Browser, report: Path) -> None:
    browser.open(report)

    browser.click("#errors a")

    browser.wait_for(f"{COUNT} === '3 of 60 rows'")
    assert browser.value("location.hash") == "#error_type=ValueError"
    browser.click("#filters button")
    browser.wait_for(f"{COUNT} === '60 of 60 rows'")
    browser.choose("select[name=finish_reason]", "length")
    assert browser.value("location.hash") == "#finish_reason=length"
    assert browser.value(COUNT) == "7 of 60 rows"


def test_a_row_opens_to_all_it_has(browser: Browser, report: Path) -> None:
    browser.open(report, "#q=row-9")

    browser.click(".row summary")

    browser.wait_for("document.querySelectorAll('.row[open] table tr').length > 3")
    told = browser.value("document.querySelector('.row[open]').innerText")
    assert re.search(r"topic\s+film", told)
    assert "question 9" in told


def test_nothing_of_a_dataset_becomes_markup(browser: Browser, report: Path) -> None:
    browser.open(report, "#q=onerror")

    assert browser.value(COUNT) == "2 of 60 rows"
    browser.click(".row:nth-of-type(2) summary")
    browser.wait_for("document.querySelector('.row[open] table') !== null")
    assert browser.value("document.querySelectorAll('img').length") == 0
    assert browser.value("document.scripts.length") == 2
    assert browser.value("window.hit") is None
    assert ids(browser)[1] == HOSTILE
    assert HOSTILE in browser.value("document.querySelector('.row[open] .turn .asked').textContent")
    assert HOSTILE in browser.value("document.querySelector('#errors').textContent")


def test_it_follows_the_users_light_or_dark(browser: Browser, report: Path) -> None:
    browser.open(report)
    seen = {}
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        seen[scheme] = browser.value(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('svg .mark-rect path')).fill]"
        )

    assert seen == {
        "light": ["rgb(246, 246, 243)", "rgb(76, 110, 245)"],
        "dark": ["rgb(18, 19, 22)", "rgb(116, 143, 252)"],
    }
