"""How much a test does: little of it in `make test`, and all of it in `make test-all`."""

from __future__ import annotations

from typing import Any

import pytest


def sizes(small: int, full: int) -> list[Any]:
    """Values of a parameter that says how much a test does."""
    return [small, pytest.param(full, marks=pytest.mark.slow)]
