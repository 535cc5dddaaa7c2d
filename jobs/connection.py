"""Connections to Redis, made one way everywhere."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from vllm_mlx.errors import InvalidRequestError

# Seconds a server may take to answer: a frozen one must be noticed, and no command is slow.
SOCKET_TIMEOUT = 15.0
_PASSING = (ConnectionError, TimeoutError, OutOfMemoryError, ReadOnlyError)


def is_passing(error: Exception) -> bool:
    """Whether Redis is away, full, or can't write now: what is not done yet can be tried again."""
    return isinstance(error, _PASSING) or (
        isinstance(error, ResponseError) and str(error).startswith("MISCONF")
    )


def connect(url: str) -> Redis:
    """A connection for RQ and the ledger.

    redis-py would repeat a command whose reply was lost, and so apply a transaction twice; the
    worker repeats what is safe to repeat itself.

    Raises:
        InvalidRequestError: it is not the URL of a Redis.
    """
    try:
        return Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=30,
            socket_timeout=SOCKET_TIMEOUT,
            socket_connect_timeout=5.0,
        )
    except ValueError as error:
        raise InvalidRequestError(f"{redacted(url)} is not the URL of a Redis: {error}") from None


def redacted(url: str) -> str:
    """The URL as it may be shown: without user, password and options."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        parts = parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2])
    return urlunsplit(parts._replace(query="***" if parts.query else "", fragment=""))
