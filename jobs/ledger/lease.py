"""`ShardLease`: the right of one worker to record and commit a shard's rows.

Every claim gets a higher fencing token. Claim, record and commit are Redis scripts, each atomic and
safe to repeat when its reply was lost; record and commit are refused unless their token is the
shard's latest one, so a worker suspended during the next claim changes nothing. Rows are recorded
as they end, and the next holder of the lease goes on after them.

A shard's rows stay in Redis until it is committed: a few KB a row, some hundred rows a worker.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from redis import Redis

from jobs.errors import LeaseLostError, LedgerError
from jobs.ledger.counts import Counts
from jobs.ledger.keys import (
    done_key,
    explain_damage,
    leases_key,
    partial_key,
    rows_channel,
    rows_key,
    stretch_key,
)
from jobs.ledger.stretch import ALIKE, ERROR, FIRST, Stretch
from jobs.result_row import ResultRow

logger = logging.getLogger("mlx_batch.ledger")

GAP = 300  # seconds; of a longer time without a row, nobody was at work
SINCE = ":since"  # when a shard was claimed; before, its worker was not at work

_CLAIM = f"""
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return {{0}} end
local held = redis.call('HGET', KEYS[2], ARGV[1])
if held and string.sub(held, 1, 1) == '-' then
  redis.call('HSET', KEYS[2], ARGV[1], string.sub(held, 2))
end
local token = redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
local idle = redis.call('HINCRBY', KEYS[2], ARGV[1] .. ':idle', 1)
redis.call('HSET', KEYS[2], ARGV[1] .. '{SINCE}', redis.call('TIME')[1])
redis.call('HSETNX', KEYS[4], 'at', redis.call('TIME')[1])
return {{token, idle, redis.call('HGETALL', KEYS[3])}}
"""
# A commit makes the token negative. The same commit may be repeated, but not once the shard is
# reopened: it is not among the done ones then.
_HELD = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
local is_done = redis.call('HEXISTS', KEYS[4], ARGV[1]) == 1
if is_done and held == '-' .. ARGV[2] then return 1 end
if held ~= ARGV[2] then return 0 end
"""
_CHECK = f"""{_HELD}
return 1
"""
# Of a stretch that has had its errors, no more are recorded: rows that end so are tried again when
# the run goes on. All rows of a call are recorded, or none, so that `counts` are those of all.
_RECORD = f"""{_HELD}
local function count(what, by)
  if by > 0 then redis.call('HINCRBY', KEYS[5], what, by) end
end
local stretch, flat = {{}}, redis.call('HGETALL', KEYS[5])
for i = 1, #flat, 2 do stretch[flat[i]] = flat[i + 1] end
local ok, tokens, errors, types, kinds, found, refused = 0, 0, 0, {{}}, 0, {{}}, {{}}
for name, times in pairs(stretch) do
  if string.sub(name, 1, {len(ERROR)}) == '{ERROR}' then
    errors, types[name], kinds = errors + times, true, kinds + 1
  end
end
for i = 5, #ARGV, 4 do
  if redis.call('HEXISTS', KEYS[2], ARGV[i]) == 0 then
    tokens = tokens + tonumber(ARGV[i + 2])
    if ARGV[i + 3] == 'ok' then ok = ok + 1 elseif ARGV[i + 3] ~= '' then found[#found + 1] = i end
  end
end
local most, is_spent = stretch['most_errors'], stretch['is_spent']
for _, i in ipairs(found) do
  local name = ARGV[i + 3]
  if is_spent then
    refused[#refused + 1] = ARGV[i]
  else
    errors = errors + 1
    if not types[name] then types[name], kinds = true, kinds + 1 end
    if most == '{ALIKE}' then
      is_spent = kinds == 1 and errors >= {FIRST} and ok + tonumber(stretch['ok'] or 0) == 0
    else
      is_spent = most and errors > tonumber(most)
    end
  end
end
if #refused > 0 then return {{refused, flat}} end
for i = 5, #ARGV, 4 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  redis.call('PUBLISH', ARGV[4], ARGV[i + 1])
end
for _, i in ipairs(found) do count(ARGV[i + 3], 1) end
if is_spent then redis.call('HSET', KEYS[5], 'is_spent', 1) end
local now, since = redis.call('TIME')[1], redis.call('HGET', KEYS[1], ARGV[1] .. '{SINCE}')
local at = tonumber(stretch['at'] or '')
if at then count('seconds', math.min(now - math.max(at, tonumber(since or '') or 0), {GAP})) end
redis.call('HSET', KEYS[5], 'at', now)
count('ok', ok)
count('output_tokens', tokens)
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
redis.call('HDEL', KEYS[1], ARGV[1] .. ':idle')
return {{refused, redis.call('HGETALL', KEYS[5])}}
"""
_COMMIT = f"""{_HELD}
redis.call('HSET', KEYS[4], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], '-' .. ARGV[2])
redis.call('HDEL', KEYS[1], ARGV[1] .. ':idle', ARGV[1] .. '{SINCE}')
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('DEL', KEYS[2])
return 1
"""
_RELEASE = f"""{_HELD}
redis.call('HDEL', KEYS[1], ARGV[1] .. ':idle')
return 1
"""


class Recorded(NamedTuple):
    """What came of a call to record rows.

    Attributes:
        stretch: what has been done in the stretch of the run at hand.
        refused: places of rows in error that are too many; if there are any, no row was recorded.
    """

    stretch: Stretch
    refused: list[int]


@dataclass(frozen=True)
class ShardLease:
    """The lease of a shard.

    Its methods raise `LeaseLostError` if another worker has claimed the shard since.

    Attributes:
        fencing_token: how often the shard was claimed, this time included.
        idle: how often in a row it was claimed without one more row recorded, this time included.
        known: rows that earlier holders recorded, by their place in the shard.
    """

    connection: Redis
    run_id: str
    shard: int
    fencing_token: int
    idle: int = 1
    known: Mapping[int, ResultRow] = field(default_factory=dict)

    @classmethod
    def claim(cls, connection: Redis, run_id: str, shard: int) -> ShardLease | None:
        """Return a new lease, which ends all earlier ones; None if the shard is committed.

        Raises:
            LedgerError: a record of the run is not one that this version writes.
        """
        claim = connection.register_script(_CLAIM)
        keys = [done_key(run_id), leases_key(run_id), rows_key(run_id, shard), stretch_key(run_id)]
        with explain_damage(run_id):
            token, *rest = cast(list[Any], claim(keys=keys, args=[shard]))
        if not token:
            return None
        idle, flat = rest
        known = dict(_readable(zip(flat[::2], flat[1::2], strict=True)))
        return cls(connection, run_id, shard, token, idle, known)

    def record(
        self, rows: Mapping[int, ResultRow], counts: Counts, foreseen: Container[int] = ()
    ) -> Recorded:
        """Record rows that have ended.

        Args:
            rows: by their place in the shard.
            counts: of all rows of the shard that are done, these included.
            foreseen: places of rows whose error was known before.
        """
        entries: list[Any] = []
        for place, row in rows.items():
            output = row.output
            outcome = "ok" if output.error_type is None else f"{ERROR}{output.error_type}"
            is_new = row.duplicate_of is None  # else no token of it was generated
            outcome = outcome if is_new and place not in foreseen else ""
            entries += (place, row.encode(), is_new * output.completion_tokens, outcome)
        reply = self._run(_RECORD, counts.encode(), rows_channel(self.run_id), *entries)
        # What was committed, and is recorded once more, counts for nothing.
        refused, flat = reply if isinstance(reply, list) else ([], [])
        stretch = Stretch.read(dict(zip(flat[::2], flat[1::2], strict=True)))
        return Recorded(stretch, [int(place) for place in refused])

    def commit(self, counts: Counts) -> None:
        """Mark the shard as done, once its part is on disk, and delete its rows."""
        self._run(_COMMIT, counts.encode())

    def release(self) -> None:
        """Give the shard back without an end: this claim was not an idle one."""
        self._run(_RELEASE)

    def check(self) -> None:
        """Make sure that the lease is the shard's latest one."""
        self._run(_CHECK)

    def _run(self, script: str, *more: Any) -> Any:
        run_id, shard = self.run_id, self.shard
        keys = [leases_key(run_id), rows_key(run_id, shard), partial_key(run_id), done_key(run_id)]
        keys.append(stretch_key(run_id))
        args = [shard, self.fencing_token, *more]
        with explain_damage(run_id):
            reply = self.connection.register_script(script)(keys=keys, args=args)
        if reply == 0:
            raise LeaseLostError(
                f"shard {shard} of {run_id} was claimed by another worker meanwhile"
            )
        return reply


def read_row(raw: bytes) -> ResultRow:
    """Return a recorded row.

    Raises:
        LedgerError: it is not one that this version writes.
    """
    try:
        return ResultRow.decode(raw)
    except ValueError as error:
        raise LedgerError(f"the ledger holds {raw[:80]!r} in place of a row: {error}") from None


def read_number(raw: bytes, meaning: str) -> int:
    """Return the number of a shard or a row; LedgerError if it is none."""
    if not raw.isdigit() or len(raw) > 9:
        raise LedgerError(f"the ledger holds {raw[:80]!r} in place of {meaning}")
    return int(raw)


def _readable(entries: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[int, ResultRow]]:
    """Yield the rows that can be read, by their place; others are made again."""
    for place, raw in entries:
        try:
            yield read_number(place, "a row's place"), read_row(raw)
        except LedgerError as error:
            logger.warning("a row is made again: %s", error)
