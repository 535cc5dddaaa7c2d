"""Connections to Redis, made one way everywhere."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def connect(url: str) -> Redis:
    """A connection for RQ and the ledger.

    redis-py would repeat a command whose reply was lost, and so apply a transaction twice; the
    worker repeats what is safe to repeat itself.
    """
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), health_check_interval=30)


def redacted(url: str) -> str:
    """The URL as it may be shown: without user and password."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))
