"""What tests of workers ask for beside a bench."""

from __future__ import annotations

import pytest

from worker.flights import sharing


@pytest.fixture
def two_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers hold two batches and no more, as where others need the rest."""
    monkeypatch.setattr(sharing, "FULL_WINDOW", sharing.LOOKAHEAD)
