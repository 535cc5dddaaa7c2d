"""The search for the peer's best width: few probes, none that is hopeless, no narrow verdict."""

from __future__ import annotations

import math

import pytest

from benchmarks.widths import best_width


class Machine:
    """Takes `seconds_per_row[width] * requests`; keeps what it was asked."""

    def __init__(self, **seconds_per_row: float) -> None:
        self.seconds = {int(width[1:]): taken for width, taken in seconds_per_row.items()}
        self.asked: list[tuple[int, int]] = []

    def __call__(self, width: int, requests: int, limit: float) -> float | None:
        self.asked.append((width, requests))
        seconds = self.seconds[width] * requests
        return seconds if seconds <= limit else None


FALLING = {"w8": 5, "w16": 4, "w32": 3, "w64": 2, "w128": 1}
RISING = {"w8": 1, "w16": 2, "w32": 3, "w64": 4, "w128": 5}


@pytest.mark.parametrize("best", [8, 16, 32, 64, 128])
def test_the_fastest_of_all_widths(best: int) -> None:
    taken = {f"w{w}": 1.0 + abs(math.log2(w / best)) for w in (8, 16, 32, 64, 128)}
    machine = Machine(**taken)
    assert best_width(machine, 512, 96, 1e9) == best
    assert sorted(machine.asked) == [(8, 96), (16, 96), (32, 96), (64, 96), (128, 96)]


def test_a_probe_may_take_little_longer_than_the_best_before_it() -> None:
    limits = {}

    def probe(width: int, requests: int, limit: float) -> float | None:
        limits[width] = limit
        return float(width)

    best_width(probe, 512, 96, 1000.0)
    assert limits[32] == 1000.0
    assert limits[64] == pytest.approx(35.2)
    assert limits[8] == pytest.approx(17.6)  # 16 was the best by then


def test_a_small_sample_grows_while_the_widest_is_the_best() -> None:
    machine = Machine(**FALLING)
    assert best_width(machine, 512, 24, 1e9) == 128
    assert (128, 24) not in machine.asked
    assert machine.asked[-4:] == [(32, 128), (64, 128), (64, 256), (128, 256)]


def test_a_small_sample_is_enough_where_a_narrow_width_is_the_best() -> None:
    machine = Machine(**RISING)
    assert best_width(machine, 512, 24, 1e9) == 8
    assert {requests for _, requests in machine.asked} == {24}


def test_no_width_beyond_the_requests() -> None:
    machine = Machine(**FALLING)
    assert best_width(machine, 8, 24, 1e9) == 8
    assert machine.asked == [(8, 8)]


def test_widths_that_fail_are_left_out() -> None:
    machine = Machine(**(FALLING | {"w64": math.inf, "w128": math.inf}))
    assert best_width(machine, 512, 96, 1e9) == 32


def test_mlx_lms_default_where_every_probe_is_cut_off() -> None:
    assert best_width(lambda width, requests, limit: None, 512, 96, 1.0) == 32
