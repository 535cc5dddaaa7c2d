"""How much of a run is left, by the tokens that were seen of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from worker.status.forecast import Forecast
from worker.status.work import Work

# 100 rows of 50 prompt tokens and 20 of the answer; a quarter of them has ended.
QUARTER = Forecast(
    rows=100,
    rows_done=25,
    rows_error=0,
    running=0,
    prompt_tokens=25 * 50,
    completion_tokens=25 * 20,
    under_way=0,
    max_tokens=256,
    work=Work(
        prompt_tokens=25 * 50, completion_tokens=25 * 20, prefill_seconds=1, decode_seconds=4
    ),
    workers=1,
    seconds=5,
)


def test_a_steady_run_takes_as_long_for_each_quarter() -> None:
    assert QUARTER.fraction == 0.25
    assert QUARTER.seconds_left == pytest.approx(15)
    assert replace(QUARTER, seconds=10).seconds_left == pytest.approx(30), "media were read, too"
    both = replace(QUARTER, workers=2, seconds=2.5)
    assert both.seconds_left == pytest.approx(7.5)


def test_tokens_of_rows_under_way_count() -> None:
    begun = replace(
        QUARTER,
        running=10,
        under_way=100,
        work=replace(QUARTER.work, prompt_tokens=35 * 50, completion_tokens=600),
    )
    assert begun.tokens_per_row == 24
    assert begun.fraction == pytest.approx(0.25 + 100 / 24 / 100)
    assert begun.fraction > QUARTER.fraction


def test_before_a_row_has_ended_all_may_be_as_long_as_they_may() -> None:
    none = replace(QUARTER, rows_done=0, running=10, completion_tokens=0, prompt_tokens=0)
    assert none.seconds_left is None, "no speed is known"
    some = replace(
        none,
        under_way=100,
        work=Work(prompt_tokens=500, completion_tokens=100, prefill_seconds=1, decode_seconds=1),
    )
    assert some.tokens_per_row == 256
    assert some.seconds_left == pytest.approx(90 * 50 / 500 + (256 * 100 - 100) / 100, rel=0.01)


def test_rows_in_error_tell_nothing_of_answers() -> None:
    at_once = replace(QUARTER, rows_done=1, rows_error=1, completion_tokens=0)
    assert at_once.tokens_per_row == 256
    assert at_once.seconds_left is None, "no row has been answered"
    some = replace(QUARTER, rows_done=50, rows_error=25)
    assert (some.tokens_per_row, some.fraction) == (20, 0.5)
    assert some.seconds_left == pytest.approx(10)


def test_a_run_that_goes_on_takes_lengths_from_before_and_speeds_from_now() -> None:
    assert replace(QUARTER, work=Work()).seconds_left is None
    now = Work(prompt_tokens=50, completion_tokens=20, prefill_seconds=0.1, decode_seconds=0.2)
    assert replace(QUARTER, work=now).seconds_left == pytest.approx(75 * 0.3, rel=0.1)


def test_rows_that_generate_nothing_and_runs_that_are_done() -> None:
    scored = replace(
        QUARTER,
        completion_tokens=0,
        max_tokens=0,
        work=Work(prompt_tokens=25 * 50, prefill_seconds=1),
    )
    assert scored.seconds_left == pytest.approx(3, rel=0.7)
    assert replace(QUARTER, rows_done=100).seconds_left == 0
    assert replace(QUARTER, rows_done=100).fraction == 1


def test_the_last_rows_are_never_as_good_as_done() -> None:
    last = replace(QUARTER, rows_done=99, running=1, under_way=10_000)
    assert last.fraction < 1
    assert last.seconds_left
