"""`Live`: what a worker says of its engine, in Redis, every second."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Annotated, cast

from pydantic import Field
from redis import Redis

from jobs.ledger.keys import live_key
from vllm_mlx.outputs import EngineStats
from worker.statistics import Meter, Statistics, held_now

LIVE_TTL = 15  # seconds
SPEED_OVER = 1.0  # seconds, at least, that speeds and shares are taken over


@dataclass(frozen=True, slots=True)
class Live(Statistics):
    """The statistics of a worker's engine; an older version may have published fewer.

    Attributes:
        model: the worker's.
        tokens_per_second: generated tokens, by the clock on the wall.
    """

    model: str = ""
    tokens_per_second: Annotated[float, Field(ge=0)] = 0.0

    @staticmethod
    def of(connection: Redis, workers: Iterable[str]) -> dict[str, Live]:
        """Return the latest of each worker that published within `LIVE_TTL` seconds."""
        keys = {name: live_key(name) for name in workers}
        found: dict[str, Live] = {}
        if keys:
            published = cast(list[bytes | None], connection.mget(list(keys.values())))
            for name, raw in zip(keys, published, strict=True):
                with suppress(ValueError):  # others may write to the same key
                    found[name] = Live.decode(raw or b"")
        return found


class LiveCounts:
    """Publishes what the engine does."""

    def __init__(self, connection: Redis, worker: str, model: str) -> None:
        self._redis = connection
        self._key = live_key(worker)
        self._tokens = 0
        self._at = time.monotonic()
        self._meter = Meter()
        self._live = Live(model=model)

    def publish(self, stats: EngineStats) -> None:
        """Write the counts of now; they expire when they are not renewed."""
        self._measure(stats)
        now = replace(self._live, **held_now(stats))
        self._redis.set(self._key, now.encode(), ex=LIVE_TTL)

    def withdraw(self) -> None:
        """Remove what was published: the worker ends."""
        self._redis.delete(self._key)

    def _measure(self, stats: EngineStats) -> None:
        """Measure speeds and shares anew, but at most once a second, and only after a step."""
        now = time.monotonic()
        if self._live.tokens_per_second and now - self._at < SPEED_OVER:
            return
        statistics = self._meter.read(stats)
        if statistics.is_within_step and self._live.has_speed:
            return
        self._live = replace(self._live, **asdict(statistics))
        if not statistics.is_within_step:
            speed = (stats.completion_tokens - self._tokens) / (now - self._at)
            self._live = replace(self._live, tokens_per_second=round(speed, 1))
            self._tokens, self._at = stats.completion_tokens, now
