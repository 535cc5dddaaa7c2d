"""What an engine's counts say of its speed, and how that reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vllm_mlx.outputs import EngineStats
from worker.status.statistics import PARTS, Meter, Statistics

BEFORE = EngineStats(
    prompt_tokens=1000,
    cached_tokens=100,
    padding_tokens=10,
    completion_tokens=500,
    steps=20,
    schedule_seconds=0.5,
    prefill_seconds=1.0,
    decode_seconds=2.0,
    deliver_seconds=0.25,
)
NOW = EngineStats(
    running=30,
    waiting=12,
    max_num_seqs=32,
    slots=8,
    kv_cache_bytes=1_250_000_000,
    prompt_tokens=1000 + 1700,
    cached_tokens=100 + 1037,
    padding_tokens=10 + 27,
    completion_tokens=500 + 812,
    steps=60,
    schedule_seconds=0.5 + 0.02,
    prefill_seconds=1.0 + 0.5,
    decode_seconds=2.0 + 1.0,
    deliver_seconds=0.25 + 0.08,
)


def test_every_number_is_of_the_time_between() -> None:
    statistics = Statistics.between(BEFORE, NOW)

    assert (statistics.running, statistics.waiting, statistics.max_num_seqs) == (30, 12, 32)
    assert statistics.slots == 8
    assert statistics.kv_cache_bytes == 1_250_000_000
    assert statistics.prefill_tokens_per_second == (1700 - 1037) / 0.5
    assert statistics.decode_tokens_per_second == 812
    assert statistics.cached_share == 0.61
    assert statistics.padding_share == round(27 / (1700 - 1037 + 27), 4)
    assert statistics.time_shares == {
        "schedule": 0.0125,
        "prefill": 0.3125,
        "decode": 0.625,
        "deliver": 0.05,
    }


def test_all_in_one_line() -> None:
    assert str(Statistics.between(BEFORE, NOW)) == (
        "decode 812 tok/s, prefill 1,326 tok/s, slots 30/32, waiting 12, KV cache 1.2 GB, "
        "padding 4 %, cached 61 %, time: schedule 1 % prefill 31 % decode 62 % deliver 5 %"
    )


def test_an_engine_that_did_nothing_has_no_speed() -> None:
    statistics = Statistics.between(NOW, NOW)

    assert statistics.is_idle
    assert statistics.decode_tokens_per_second is None
    assert statistics.padding_share is None
    assert str(statistics) == "slots 30/32, waiting 12, KV cache 1.2 GB"
    assert str(Statistics()) == "slots 0"


def test_what_did_not_happen_is_left_out() -> None:
    decoded = replace(BEFORE, running=1, max_num_seqs=1, completion_tokens=600, decode_seconds=3.0)

    said = str(Statistics.between(BEFORE, decoded))

    assert said == ("decode 100 tok/s, slots 1/1, time: decode 100 %")


def test_prompts_that_were_all_cached_have_no_padding_share() -> None:
    cached = replace(BEFORE, prompt_tokens=1100, cached_tokens=200, schedule_seconds=0.6)
    statistics = Statistics.between(BEFORE, cached)
    assert (statistics.cached_share, statistics.padding_share) == (1.0, None)


def test_a_meter_measures_from_one_look_to_the_next() -> None:
    meter = Meter()

    assert meter.read(BEFORE) == Statistics.between(EngineStats(), BEFORE)
    assert meter.read(NOW) == Statistics.between(BEFORE, NOW)
    assert meter.read(NOW).is_idle


def test_a_meter_goes_on_until_a_step_ends() -> None:
    meter = Meter()
    meter.read(BEFORE)
    inside = replace(BEFORE, running=8, max_num_seqs=8, prefill_seconds=BEFORE.prefill_seconds + 3)
    ended = replace(inside, prompt_tokens=BEFORE.prompt_tokens + 800)

    said = meter.read(inside)
    assert said.is_within_step
    assert not said.is_idle
    assert str(said) == ("slots 8/8, time: prefill 100 %"), (
        "no tokens have come yet: how fast, nobody knows"
    )
    assert meter.read(ended) == Statistics.between(BEFORE, ended)
    assert meter.read(replace(ended, running=0)).is_idle


def test_time_that_was_booked_elsewhere_afterwards_is_not_negative() -> None:
    moved = replace(BEFORE, prefill_seconds=0.9, decode_seconds=2.5, completion_tokens=550)
    statistics = Statistics.between(BEFORE, moved)
    assert statistics.time_shares["prefill"] == 0
    assert statistics.decode_tokens_per_second == 100


def test_statistics_survive_being_published() -> None:
    statistics = Statistics.between(BEFORE, NOW)
    assert Statistics.decode(statistics.encode()) == statistics


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_a_count_of_the_engine(part: str) -> None:
    assert hasattr(EngineStats(), f"{part}_seconds")


def test_no_time_of_the_engine_is_left_out() -> None:
    seconds = {name for name in EngineStats.__slots__ if name.endswith("_seconds")}
    assert seconds == {f"{part}_seconds" for part in PARTS}
