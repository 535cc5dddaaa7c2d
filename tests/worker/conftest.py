"""What tests of workers ask for beside a bench."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.shell import Shell, open_shell
from worker import batch_worker
from worker.flights import sharing


@pytest.fixture
def two_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers hold two batches and no more, as where others need the rest."""
    monkeypatch.setattr(sharing, "FULL_WINDOW", sharing.LOOKAHEAD)


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers in this process take all the jobs they want, on machines that are busy, too."""
    monkeypatch.setattr(batch_worker, "ADMIT", 60.0)


@pytest.fixture(scope="session")
def shell() -> Iterator[Shell]:
    """Starts commands in pseudo-terminals."""
    with open_shell() as made:
        yield made
