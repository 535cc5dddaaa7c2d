"""`ShardLease`: one worker's hold on a shard, under a number that its heir's is above.

Each row is recorded as it ends, so that an heir goes on in the middle of the shard. All three steps
(claim, record, commit) are scripts that Redis runs whole, and record and commit are refused to whom
the shard does not belong any more: a worker that slept can't undo what its heir did. Each may be
repeated when its reply was lost.

The rows of a shard are in memory from the first one until the shard is committed. So the ledger of
a run takes what the shards in flight hold: a few KB a row, some hundred rows a worker.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from redis import Redis

from jobs.dataset import ResultRow
from jobs.errors import LeaseLostError, LedgerError
from jobs.ledger.counts import Counts
from jobs.ledger.keys import (
    done_key,
    leases_key,
    of_our_kind,
    partial_key,
    rows_channel,
    rows_key,
)
from vllm_mlx.output_json import decode_output, encode_output

logger = logging.getLogger("mlx_batch.ledger")

_CLAIM = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return {0} end
local held = redis.call('HGET', KEYS[2], ARGV[1])
if held and string.sub(held, 1, 1) == '-' then
  redis.call('HSET', KEYS[2], ARGV[1], string.sub(held, 2))
end
local epoch = redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
local idle = redis.call('HINCRBY', KEYS[2], ARGV[1] .. ':idle', 1)
return {epoch, idle, redis.call('HGETALL', KEYS[3])}
"""
# A commit ends its lease: it is negative then. Whoever committed may say so again, but no more once
# the shard is to be made anew, when it is not among those that are done.
_HELD = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
local is_done = redis.call('HEXISTS', KEYS[4], ARGV[1]) == 1
if is_done and held == '-' .. ARGV[2] then return 1 end
if held ~= ARGV[2] then return 0 end
"""
_CHECK = f"""{_HELD}
return 1
"""
_RECORD = f"""{_HELD}
for i = 5, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  redis.call('PUBLISH', ARGV[4], ARGV[i + 1])
end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
redis.call('HDEL', KEYS[1], ARGV[1] .. ':idle')
return 1
"""
_COMMIT = f"""{_HELD}
redis.call('HSET', KEYS[4], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], '-' .. ARGV[2])
redis.call('HDEL', KEYS[1], ARGV[1] .. ':idle')
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('DEL', KEYS[2])
return 1
"""
_RELEASE = f"""{_HELD}
redis.call('HDEL', KEYS[1], ARGV[1] .. ':idle')
return 1
"""


@dataclass(frozen=True)
class ShardLease:
    """The right to work on a shard.

    Attributes:
        epoch: how often the shard was claimed, this time included.
        idle: how often in a row it was claimed without one more row recorded, this time included.
        known: rows that earlier holders recorded, by their place in the shard.
    """

    connection: Redis
    run_id: str
    shard: int
    epoch: int
    idle: int = 1
    known: Mapping[int, ResultRow] = field(default_factory=dict)

    @classmethod
    def claim(cls, connection: Redis, run_id: str, shard: int) -> ShardLease | None:
        """Take a shard, from whoever had it; None if it is committed.

        Raises:
            LedgerError: somebody else wrote there.
        """
        claim = connection.register_script(_CLAIM)
        keys = [done_key(run_id), leases_key(run_id), rows_key(run_id, shard)]
        with of_our_kind(run_id):
            epoch, *rest = cast(list[Any], claim(keys=keys, args=[shard]))
        if not epoch:
            return None
        idle, flat = rest
        known = dict(_readable(zip(flat[::2], flat[1::2], strict=True)))
        return cls(connection, run_id, shard, epoch, idle, known)

    def record(self, rows: Mapping[int, ResultRow], counts: Counts) -> None:
        """Make rows last that have ended.

        Args:
            rows: by their place in the shard.
            counts: of all rows of the shard that are done, these included.

        Raises:
            LeaseLostError: the shard was claimed by somebody else.
        """
        entries = [word for place, row in rows.items() for word in (place, encode_row(row))]
        self._run(_RECORD, counts.encode(), rows_channel(self.run_id), *entries)

    def commit(self, counts: Counts) -> None:
        """The shard's part is on disk: free the ledger of its rows. It counts once.

        Raises:
            LeaseLostError: the shard was claimed by somebody else.
        """
        self._run(_COMMIT, counts.encode())

    def release(self) -> None:
        """The shard is handed back in order: nobody died of it.

        Raises:
            LeaseLostError: the shard was claimed by somebody else.
        """
        self._run(_RELEASE)

    def check(self) -> None:
        """
        Raises:
            LeaseLostError: the shard was claimed by somebody else.
        """
        self._run(_CHECK)

    def _run(self, script: str, *more: Any) -> None:
        run_id, shard = self.run_id, self.shard
        keys = [leases_key(run_id), rows_key(run_id, shard), partial_key(run_id), done_key(run_id)]
        args = [shard, self.epoch, *more]
        with of_our_kind(run_id):
            is_held = self.connection.register_script(script)(keys=keys, args=args)
        if not is_held:
            raise LeaseLostError(
                f"shard {shard} of {run_id} was claimed by another worker meanwhile"
            )


def encode_row(row: ResultRow) -> bytes:
    """A row without the input's columns, which its job has."""
    names = ("id", "row", "sample_index", "attempts", "worker")
    own = {name: getattr(row, name) for name in names}
    return b"%s\n%s" % (json.dumps(own).encode(), encode_output(row.output))


def decode_row(raw: bytes) -> ResultRow:
    """What `encode_row` wrote.

    Raises:
        LedgerError: something else wrote there.
    """
    own, _, output = raw.partition(b"\n")
    try:
        fields = json.loads(own)
        kinds = {name: type(value) for name, value in fields.items()}
        if kinds != _KINDS:
            raise ValueError(f"its fields are {sorted(kinds)}")
        return ResultRow(**fields, output=decode_output(output))
    except (ValueError, AttributeError, RecursionError) as error:
        raise LedgerError(f"the ledger holds {raw[:80]!r} in place of a row: {error}") from None


def _readable(entries: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[int, ResultRow]]:
    """The rows by their place. What is none is left out: the row there is made once more."""
    for place, raw in entries:
        try:
            yield _place(place), decode_row(raw)
        except LedgerError as error:
            logger.warning("a row is made again: %s", error)


def counts_of(rows: Iterable[ResultRow]) -> Counts:
    return Counts.of(row.output for row in rows)


_KINDS = {"id": str, "row": int, "sample_index": int, "attempts": int, "worker": str}


def _place(raw: bytes) -> int:
    if not raw.isdigit():
        raise LedgerError(f"the ledger holds {raw[:80]!r} in place of a row's place")
    return int(raw)
