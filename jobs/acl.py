"""What each kind of user needs of Redis, as the `ACL SETUSER` lines that grant it and no more.

Found by watching a server (`MONITOR`) while the tests ran; tests hold it against a real server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from redis import Redis

PLACEHOLDER = ">PASSWORD"


class Role(StrEnum):
    """Who connects to Redis."""

    PRODUCER = "producer"
    WORKER = "worker"
    MONITOR = "monitor"


@dataclass(frozen=True, slots=True)
class Access:
    """What a role may do.

    Attributes:
        commands: as ACL rules name them, subcommands after a `|`. Those that a script calls are
            checked as if they were sent.
        reads, writes: patterns of keys that may be read, and those that may be changed as well.
        channels: patterns of what may be published to and listened to.
    """

    commands: frozenset[str]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CONNECTION = _words(
    "ping select info time client|setinfo client|setname client|info "
    "multi exec discard watch unwatch"
)
_READ = _words(
    "exists get mget ttl hget hmget hgetall hexists hkeys hlen hvals llen lrange scard smembers "
    "zcard zrange zrangebyscore zrevrange zscore xrevrange"
)
_WRITE = _words(
    "set del expire persist hset hsetnx hdel hincrby hincrbyfloat lpush rpush lrem sadd srem "
    "zadd zrem zremrangebyscore xadd"
)
_SCRIPTS = _words("eval evalsha script|load script|exists")
_LISTEN = _words("subscribe unsubscribe")
_WORK = _words("blmove lmove publish zcount zpopmin")  # the last two for strangers' rate limits

# Queues are named after models and jobs after runs: other users of RQ are none of our business.
_STATES = ("wip", "deferred", "scheduled", "ready", "finished", "failed", "canceled")
_QUEUES = ("rq:queues", "rq:queue:mlx-*", *(f"rq:{state}:mlx-*" for state in _STATES))
_JOBS = ("rq:job:run-*", "rq:job::run-*", "rq:results:run-*")
_EXECUTIONS = ("rq:executions:run-*", "rq:execution:run-*")
_OURS = ("mlx-batch:*",)

ACCESS: Mapping[Role, Access] = {
    Role.MONITOR: Access(
        commands=_CONNECTION | _READ | _LISTEN,
        reads=("rq:workers:mlx-*", *_QUEUES, *_JOBS, *_OURS),
        channels=_OURS,
    ),
    Role.PRODUCER: Access(
        commands=_CONNECTION | _READ | _WRITE | _SCRIPTS | _LISTEN,
        reads=("rq:workers:mlx-*", "mlx-batch:live:*", "mlx-batch:loading:*"),
        writes=(
            *(*_QUEUES, *_JOBS, *_EXECUTIONS),
            *("mlx-batch:runs", "mlx-batch:run:*", "mlx-batch:out:*"),
        ),
        channels=_OURS,
    ),
    # All of RQ's keys: it has to read a stranger's job to fail it, and to release those of other
    # queues that wait for a run.
    Role.WORKER: Access(
        commands=_CONNECTION | _READ | _WRITE | _SCRIPTS | _LISTEN | _WORK,
        writes=("rq:*", *_OURS),
        channels=("rq:pubsub:*", *_OURS),
    ),
}


ALL_COMMANDS = frozenset[str]().union(*(access.commands for access in ACCESS.values()))


def known_commands(connection: Redis) -> frozenset[str]:
    """Return those of `ALL_COMMANDS` that a server has; it refuses a line with any other."""
    names = sorted(ALL_COMMANDS)
    found = cast(list[object | None], connection.execute_command("COMMAND INFO", *names))
    return frozenset(name for name, info in zip(names, found, strict=True) if info)


def acl_line(
    role: Role, user: str, password: str | None = None, *, commands: frozenset[str] = ALL_COMMANDS
) -> str:
    """Return the line for `redis-cli` that makes `user` and gives it what its role needs.

    Args:
        password: of it only the hash stands in the line; None leaves a placeholder.
        commands: those that the server has.
    """
    access = ACCESS[role]
    secret = PLACEHOLDER
    if password is not None:
        secret = f"#{hashlib.sha256(password.encode()).hexdigest()}"
    return " ".join(
        [
            *("ACL", "SETUSER", user, "reset", "on", secret),
            *(f"%R~{pattern}" for pattern in access.reads),
            *(f"~{pattern}" for pattern in access.writes),
            *(f"&{pattern}" for pattern in access.channels),
            *(f"+{command}" for command in sorted(access.commands & commands)),
        ]
    )
