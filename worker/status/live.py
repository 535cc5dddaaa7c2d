"""`Live`: what a worker says of its engine, in Redis, every second."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Annotated, cast

from pydantic import Field
from redis import Redis
from redis.exceptions import RedisError

from jobs.ledger.keys import live_key, loading_key
from vllm_mlx.outputs import EngineStats
from worker.status.phase import Phase
from worker.status.statistics import Count, Meter, Statistics, held_now

LIVE_TTL = 15  # seconds
SPEED_OVER = 1.0  # seconds, at least, that speeds and shares are taken over
COUNTED = ("prompt_tokens", "cached_tokens", "completion_tokens")
TIMED = ("prefill_seconds", "decode_seconds")

Seconds = Annotated[float, Field(ge=0, le=1e12)]


@dataclass(frozen=True, slots=True)
class Live(Statistics):
    """The statistics of a worker's engine; an older version may have published fewer.

    Attributes:
        model: the worker's.
        phase: what it does; an older version does not say.
        output_root: the folder below which it writes datasets; None if it writes everywhere.
        jobs: how many it has in hand.
        tokens_per_second: generated tokens, by the clock on the wall.
        prompt_tokens, cached_tokens, completion_tokens, prefill_seconds, decode_seconds: as in
            `EngineStats`, since the worker started.
    """

    model: str = ""
    phase: Phase | None = None
    output_root: Annotated[str, Field(max_length=4096)] | None = None
    jobs: Count = 0
    tokens_per_second: Annotated[float, Field(ge=0)] = 0.0
    prompt_tokens: Count = 0
    cached_tokens: Count = 0
    completion_tokens: Count = 0
    prefill_seconds: Seconds = 0.0
    decode_seconds: Seconds = 0.0

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

    @staticmethod
    def of_queue(connection: Redis, queue: str, workers: Iterable[str]) -> dict[str, Live]:
        """Return the latest of these workers of a queue, and of those that load its model."""
        members = cast(set[bytes], connection.smembers(loading_key(queue)))
        loading = {name.decode(errors="replace") for name in members}
        return Live.of(connection, sorted(loading.union(workers)))

    def __str__(self) -> str:
        return str(self.phase) if self.phase is Phase.LOADING else Statistics.__str__(self)


class LiveCounts:
    """Publishes what the engine does."""

    def __init__(
        self,
        connection: Redis,
        worker: str,
        model: str,
        queue: str,
        *,
        output_root: str | None = None,
    ) -> None:
        self._redis = connection
        self._worker = worker
        self._loading_key = loading_key(queue)
        self._key = live_key(worker)
        self._tokens = 0
        self._at = time.monotonic()
        self._meter = Meter()
        self._live = Live(model=model, output_root=output_root)

    def publish(self, stats: EngineStats, jobs: int = 0) -> None:
        """Write the counts of now; they expire when they are not renewed."""
        self._measure(stats)
        counts = {name: getattr(stats, name) for name in (*COUNTED, *TIMED)}
        phase = self._phase(stats)
        self._say(replace(self._live, **held_now(stats), **counts, phase=phase, jobs=jobs))

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Say that the model is loaded as long as the body takes, which may be minutes."""
        is_over = threading.Event()
        saying = threading.Thread(target=self._say_loading, args=(is_over,), daemon=True)
        saying.start()
        is_loaded = False
        try:
            yield
            is_loaded = True
        finally:
            is_over.set()
            saying.join(LIVE_TTL / 3)  # not for as long as a Redis may be away
            with suppress(RedisError):
                self._redis.srem(self._loading_key, self._worker)
                if not is_loaded:
                    self._redis.delete(self._key)

    def _say_loading(self, is_over: threading.Event) -> None:
        while not is_over.is_set():
            with suppress(RedisError):  # the worker itself waits for a Redis that is away
                self._redis.sadd(self._loading_key, self._worker)
                self._redis.expire(self._loading_key, LIVE_TTL)
                self._say(replace(self._live, phase=Phase.LOADING))
            is_over.wait(LIVE_TTL / 3)

    def _say(self, live: Live) -> None:
        self._redis.set(self._key, live.encode(), ex=LIVE_TTL)

    def _phase(self, stats: EngineStats) -> Phase:
        if not stats.running and not stats.waiting:
            return Phase.IDLE
        prefill, decode = (self._live.time_shares.get(part, 0.0) for part in ("prefill", "decode"))
        is_prefill = prefill > decode or not stats.completion_tokens
        return Phase.PREFILL if is_prefill else Phase.ANSWERING

    def conclude(self, stats: EngineStats) -> None:
        """Write the last counts: the worker ends, and only those that wait for that read them."""
        self.publish(replace(stats, running=0, waiting=0))

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
