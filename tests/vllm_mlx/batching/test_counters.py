"""What the counters say while a part of the loop goes on."""

from __future__ import annotations

import pytest

from vllm_mlx.batching.counters import Counters
from vllm_mlx.outputs import EngineStats


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("vllm_mlx.batching.counters.time.perf_counter", lambda: now[0])
    return now


def test_a_part_that_goes_on_counts_so_far(clock):
    counters = Counters()
    with counters.timed("prefill"):
        clock[0] += 2
        assert counters.stats().prefill_seconds == 2
        clock[0] += 3
        assert counters.stats().prefill_seconds == 5
    clock[0] += 7
    assert counters.stats(running=3).prefill_seconds == 5
    with counters.timed("decode"):
        clock[0] += 1
    stats = counters.stats()
    assert (stats.prefill_seconds, stats.decode_seconds) == (5, 1)


def test_a_part_that_raises_counts_until_then(clock):
    counters = Counters()

    def fail():
        with counters.timed("decode"):
            clock[0] += 4
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    clock[0] += 1
    assert counters.stats().decode_seconds == 4


def test_counts_go_on_from_those_of_an_engine_before():
    before = EngineStats(running=3, slots=8, steps=5, decode_seconds=1.5)
    now = EngineStats(running=1, slots=4, steps=2, decode_seconds=0.5, completion_tokens=7)
    assert now.after(before) == EngineStats(
        running=1, slots=4, steps=7, decode_seconds=2.0, completion_tokens=7
    )
