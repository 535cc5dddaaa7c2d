"""Connections to Redis, made one way everywhere."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.connection import AbstractConnection
from redis.exceptions import (
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from jobs.errors import ServerVersionError, UnsuitableServerError
from vllm_mlx.errors import InvalidRequestError, MLXBatchError

# The first with `SET … NX GET` and with patterns of keys that a user may only read. Valkey tells
# the version of Redis that it stands for, which is 7.2 at least.
LEAST_REDIS = (7, 0)
# Seconds a server may take to answer: a frozen one must be noticed, and no command is slow.
SOCKET_TIMEOUT = 15.0
LARGEST_VALUE = 512 << 20  # bytes that Redis takes as one by default
_LARGEST = "proto-max-bulk-len"
_TOLD = re.compile(r"^(\w+):(\S+)", re.MULTILINE)
_NO_CLUSTER = (
    "a run's records change together, so they are on one server; give the URL of one that is none"
)
_SAFE = ("Redis URL must", "Invalid value for", "got an unexpected", "Invalid SSL", "ssl_")
_PASSING = (ConnectionError, TimeoutError, OutOfMemoryError, ReadOnlyError)


def is_passing(error: Exception) -> bool:
    """Return whether Redis is away, full or can't write now, so that a retry may succeed."""
    return isinstance(error, _PASSING) or (
        isinstance(error, ResponseError) and str(error).startswith("MISCONF")
    )


def connect(url: str, *, patience: float = SOCKET_TIMEOUT) -> Redis:
    """Return a connection for RQ and the ledger; `rediss://` is encrypted.

    Its first command raises `ServerVersionError` if the server is older than `LEAST_REDIS`, and
    `UnsuitableServerError` if it is a cluster.
    redis-py would repeat a command whose reply was lost, and so apply a transaction twice; the
    worker repeats what is safe to repeat itself.

    Args:
        patience: seconds that the server may take to answer; at least 2, at most `SOCKET_TIMEOUT`.

    Raises:
        InvalidRequestError: it is not the URL of a Redis, or names a file of certificates that
            can't be used.
    """
    try:
        connection = Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=30,
            socket_timeout=min(max(2.0, patience), SOCKET_TIMEOUT),
            socket_connect_timeout=5.0,
            redis_connect_func=partial(_greet, redacted(url)),
        )
        pool = connection.connection_pool
        # Otherwise its options would be looked at with the first command.
        pool.connection_class(**pool.connection_kwargs)
        _check_certificates(pool.connection_kwargs)
    except (ValueError, TypeError, RedisError) as error:
        reason = _why_no_url(error, url)
        raise InvalidRequestError(f"{redacted(url)} is not the URL of a Redis: {reason}") from None
    _require_bytes(connection)
    return connection


def require_suitable(connection: Redis) -> None:
    """Look at a connection that `connect` may not have made, before anything is written.

    Raises:
        InvalidRequestError: it decodes answers, or is a cluster's.
        ServerVersionError, UnsuitableServerError: as of `connect`.
    """
    if isinstance(connection, RedisCluster):
        raise InvalidRequestError(f"a RedisCluster can't be used: {_NO_CLUSTER}")
    _require_bytes(connection)
    _require_suitable("the server", connection.execute_command("INFO", "server"))


def largest_value(connection: Redis) -> int:
    """Return how many bytes a server takes as one value."""
    try:
        found: Any = connection.config_get(_LARGEST)
    except ResponseError:  # it is not for us to know
        found = {}
    return int(found.get(_LARGEST, LARGEST_VALUE))


def _require_bytes(connection: Redis) -> None:
    if connection.get_connection_kwargs().get("decode_responses"):
        raise InvalidRequestError(
            "decode_responses: RQ and the ledger read bytes; leave it out, as "
            "jobs.connection.connect(url) does"
        )


def _require_suitable(server: str, said: Any) -> None:
    """Refuse a server by what `INFO server` says of it; redis-py may have parsed that."""
    told = said if isinstance(said, dict) else dict(_TOLD.findall(bytes(said).decode()))
    version = str(told.get("redis_version", ""))
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < LEAST_REDIS:
        least = ".".join(map(str, LEAST_REDIS))
        raise ServerVersionError(
            f"{server} is Redis {version}: mlx-batch needs Redis {least}, or Valkey"
        )
    if "cluster" in (told.get("redis_mode"), told.get("server_mode")):  # the latter is Valkey's
        raise UnsuitableServerError(f"{server} is a Redis Cluster: {_NO_CLUSTER}")


def _greet(server: str, connection: AbstractConnection) -> None:
    """Log in, as redis-py does by itself, and refuse a server that does not suit."""
    connection.on_connect()
    connection.send_command("INFO", "server", check_health=False)
    try:
        _require_suitable(server, connection.read_response())
    except MLXBatchError:
        connection.disconnect()
        raise


def redacted(url: str) -> str:
    """Return a URL, even a malformed one, without user, password and options."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    found = re.match(r"(?P<place>[^?#]*)(?P<options>.*)", rest, re.DOTALL)
    assert found is not None
    place, options = found["place"], found["options"]
    if "@" in options:  # of an option, or of a password with a ? or a #
        return f"{scheme}{separator}***"
    if "@" in place:
        place = "***@" + place.rpartition("@")[2]
    return f"{scheme}{separator}{place}" + ("?***" if options else "")


def _why_no_url(error: Exception, url: str) -> str:
    """Return the reason, unless it may quote a password, as urllib does of one with a slash."""
    reason = str(error).rpartition("__init__() ")[2]
    if not reason.startswith(_SAFE):
        return "host or port are not spelled as such; in a password / ? # @ : are percent-encoded"
    if url.startswith("redis:") and "'ssl_" in reason:
        reason += ": write rediss:// for an encrypted connection"
    return reason


def _check_certificates(options: dict[str, Any]) -> None:
    """Read the files that the options name, as the first command will.

    Raises:
        ValueError: one is missing or holds no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    key, password = options.get("ssl_keyfile"), options.get("ssl_password")
    loads: dict[str, Callable[[str], None]] = {
        "ssl_ca_certs": context.load_verify_locations,
        "ssl_certfile": lambda file: context.load_cert_chain(file, key, password),
    }
    for option, load in loads.items():
        if file := options.get(option):
            try:
                load(file)
                continue
            except ssl.SSLError as error:
                reason = error.reason or "it is not in PEM format"
            except OSError as error:
                reason = error.strerror or type(error).__name__
            raise ValueError(f"{option}: {file} can't be used: {reason}")
