"""What ends a run early: how bounds are written, and what they mean."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from jobs.run_bounds import RunBounds
from vllm_mlx.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("8h", 28800), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("0.5h", 1800), (12, 12)],
)
def test_times(given: object, seconds: float) -> None:
    assert RunBounds.of(max_time=given).seconds == seconds


@pytest.mark.parametrize(
    ("given", "allowed"), [("0", 0), (50, 50), ("5%", 10), ("0.5%", 1), ("100%", 200), (None, None)]
)
def test_errors_that_are_allowed_of_200_rows(given: object, allowed: float | None) -> None:
    assert RunBounds.of(max_errors=given).errors_allowed(200) == allowed


def test_until_is_the_next_such_time() -> None:
    noon = datetime(2026, 11, 28, 12, 0)
    assert RunBounds.of(until="07:00").deadline(noon) == datetime(2026, 11, 29, 7, 0)
    assert RunBounds.of(until="12:01").deadline(noon) == noon + timedelta(minutes=1)
    assert RunBounds.of(until="12:00").deadline(noon) == noon + timedelta(days=1)
    assert RunBounds.of().deadline(noon) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_time": ""},
        {"max_time": "0"},
        {"max_time": "8 hours"},
        {"max_time": "-1h"},
        {"until": "25:00"},
        {"until": "7 o'clock"},
        {"max_errors": "-1"},
        {"max_errors": "101%"},
        {"max_errors": "some"},
        {"max_output_tokens": 0},
        {"max_output_tokens": "many"},
    ],
)
def test_what_is_no_bound_is_refused_by_name(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(InvalidRequestError, match=f"^{name}="):
        RunBounds.of(**wrong)
