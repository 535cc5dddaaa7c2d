"""A dataset to report on, and a browser to look at it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.browser import Browser, require_chromium


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    require_chromium()
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """A headless Chromium in which no page may complain, or fetch what is no file or data."""
    chromium.complaints.clear()
    chromium.fetched.clear()
    yield chromium
    assert chromium.complaints == []
    assert {url.partition(":")[0] for url in chromium.fetched} <= {"about", "file", "data"}
