"""What a worker says of its engine at work: in Redis every second, in its log every minute."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace

import pytest
from redis import Redis

from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import DoubleEngine, wait_for
from tests.worker.status.test_statistics import BEFORE, NOW
from vllm_mlx.outputs import EngineStats
from worker.status.live import COUNTED, LIVE_TTL, TIMED, Live, LiveCounts
from worker.status.phase import Phase
from worker.status.statistics import Statistics

IDLE = Phase.IDLE
LINE = str(Statistics.between(BEFORE, NOW))


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the worker logged; RQ says things, too."""
    return [record.getMessage() for record in caplog.records if record.name == "mlx_batch.worker"]


def published(redis: Redis) -> Live:
    return Live.of(redis, ["w"])["w"]


def said(
    statistics: Statistics,
    tokens_per_second: float,
    stats: EngineStats,
    phase: Phase = Phase.ANSWERING,
) -> Live:
    counts = {name: getattr(stats, name) for name in (*COUNTED, *TIMED)}
    numbers = asdict(statistics) | counts
    return Live(**numbers, model="m", phase=phase, tokens_per_second=tokens_per_second)


def test_the_word_of_a_worker(redis: Redis) -> None:
    assert Live.of(redis, []) == {}
    one = LiveCounts(redis, "one", "m", "q")
    for running in (3, 4):
        one.publish(EngineStats(running=running))
    LiveCounts(redis, "two", "m", "q").publish(EngineStats(running=1))

    told = Live.of(redis, ["one", "two", "three"])
    begun = Live(phase=Phase.PREFILL, model="m")  # no token was generated yet
    assert told == {"one": replace(begun, running=4), "two": replace(begun, running=1)}
    assert 0 < redis.ttl("mlx-batch:live:one") <= LIVE_TTL


def test_a_worker_says_that_it_loads_until_it_has_loaded(redis: Redis) -> None:
    live = LiveCounts(redis, "w", "m", "q")

    with live.loading():
        wait_for(lambda: Live.of_queue(redis, "q", []))
        (loading,) = Live.of_queue(redis, "q", []).values()
        assert (loading.phase, str(loading)) == (Phase.LOADING, "loading the model")
        assert 0 < redis.ttl("mlx-batch:loading:q") <= LIVE_TTL
    assert Live.of_queue(redis, "q", []) == {}

    with pytest.raises(ValueError, match="no model"), live.loading():
        raise ValueError("no model")
    assert redis.keys("*") == []


def test_a_worker_says_whether_it_reads_prompts_or_answers(redis: Redis) -> None:
    live = LiveCounts(redis, "w", "m", "q")
    steps = [
        EngineStats(running=2, waiting=6, prompt_tokens=80, prefill_seconds=1.0),
        EngineStats(running=2, prompt_tokens=80, completion_tokens=9, decode_seconds=3.0),
        EngineStats(completion_tokens=20, decode_seconds=4.0),
    ]
    phases = []
    for stats in steps:
        live._at = 0.0  # a second later
        live.publish(stats)
        phases.append(published(redis).phase)

    assert phases == [Phase.PREFILL, Phase.ANSWERING, Phase.IDLE]


def test_the_last_word_of_a_worker_has_all_it_did(redis: Redis) -> None:
    LiveCounts(redis, "w", "m", "q").conclude(replace(NOW, running=3))

    last = published(redis)
    assert (last.phase, last.running) == (Phase.IDLE, 0)
    assert last.completion_tokens == NOW.completion_tokens
    assert last.prefill_seconds == NOW.prefill_seconds


def test_a_worker_of_an_older_version_says_less(redis: Redis) -> None:
    told = {"model": "m", "runs": {}, "running": 3, "waiting": 4, "tokens_per_second": 9.0}
    redis.set("mlx-batch:live:w", json.dumps(told))
    assert str(published(redis)) == "slots 3, waiting 4"


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b'{"running": "3"}',
        b'{"running": 1e3}',
        b'{"slots": null}',
        b'{"kv_cache_bytes": 1' + 400 * b"0" + b"}",
        b'{"tokens_per_second": -1}',
        b'{"tokens_per_second": NaN}',
        b'{"time_shares": {"decode": []}}',
    ],
)
def test_what_no_worker_says_is_passed_over(redis: Redis, raw: bytes) -> None:
    redis.set("mlx-batch:live:w", raw)
    assert Live.of(redis, ["w"]) == {}


def test_speeds_are_those_of_the_last_second_and_counts_those_of_now(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("worker.status.live.time.monotonic", lambda: clock[0])
    live = LiveCounts(redis, "w", "m", "q")

    clock[0] += 1
    live.publish(BEFORE)
    assert published(redis) == said(Statistics.between(EngineStats(), BEFORE), 500, BEFORE, IDLE)

    clock[0] += 0.5
    live.publish(replace(NOW, waiting=99))
    assert published(redis).waiting == 99
    assert published(redis).decode_tokens_per_second == 250, "half a second is too little"

    clock[0] += 0.5
    live.publish(NOW)
    assert published(redis) == said(Statistics.between(BEFORE, NOW), 812, NOW)


def test_a_step_of_many_seconds_leaves_the_last_speeds_standing(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("worker.status.live.time.monotonic", lambda: clock[0])
    live = LiveCounts(redis, "w", "m", "q")

    def publish(stats: EngineStats) -> Live:
        clock[0] += 1
        live.publish(stats)
        return published(redis)

    inside = EngineStats(running=8, slots=8, prefill_seconds=1.0)
    assert publish(inside).time_shares["prefill"] == 1
    assert publish(replace(inside, schedule_seconds=1.0)).time_shares["prefill"] == 0.5
    first = replace(inside, prompt_tokens=900, prefill_seconds=2.0, completion_tokens=60)
    first = replace(first, decode_seconds=1.0)
    assert publish(first) == said(
        Statistics.between(EngineStats(), first), 20, first, Phase.PREFILL
    )

    for seconds in (2.0, 3.0):
        assert publish(replace(first, decode_seconds=seconds)).decode_tokens_per_second == 60
    assert published(redis).tokens_per_second == 20
    second = replace(first, decode_seconds=4.0, completion_tokens=90)
    assert publish(second) == said(Statistics.between(first, second), 10, second)
    assert publish(replace(second, running=0)).time_shares == {}


def test_status_shows_what_each_worker_s_engine_does(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    engine = DoubleEngine(held=True)
    worker = bench.worker(engine, name="w")
    worker.admit(wait=False)
    engine.stats = replace(NOW, way="in slots, 28 x keys and values")
    worker._publish()

    said = cli("status", spec.run_id, "-u", bench.url, env={"COLUMNS": "200"}).stdout
    assert "worker w" in said
    assert str(Statistics.between(EngineStats(), NOW)) in said
    assert "runs in slots, 28 x keys and values" in said

    told = json.loads(cli("status", spec.run_id, "-u", bench.url, "--json").stdout)
    numbers = told["workers"]["w"]
    assert (numbers["running"], numbers["waiting"], numbers["max_num_seqs"]) == (30, 12, 32)
    assert numbers["way"] == "in slots, 28 x keys and values"
    assert numbers["time_shares"].keys() == {"schedule", "prefill", "decode", "deliver"}


def test_the_log_has_a_line_now_and_then_unless_nothing_happened(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mlx_batch.worker")
    engine = DoubleEngine()
    worker = bench.worker(engine)
    engine.stats = BEFORE
    worker.tend()
    assert told(caplog) == []

    lines = []
    for stats in (BEFORE, NOW, NOW):
        engine.stats = stats
        bench.be_due(worker)  # a minute later
        caplog.clear()
        worker.tend()
        lines.append(told(caplog))

    assert lines == [[str(Statistics.between(EngineStats(), BEFORE))], [LINE], []]


def test_the_log_ends_with_all_of_it(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mlx_batch.worker")
    bench.enqueue(rows=1, shard_size=1)
    engine = DoubleEngine()
    engine.stats = NOW

    bench.burst(engine)

    *_, last = told(caplog)
    assert last.startswith("in all: decode ")
    assert sum("decode" in line for line in told(caplog)) == 1
