"""Leases of shards: rows last as they are recorded, and only the last holder writes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from redis import Redis

from jobs.errors import LeaseLostError, LedgerError
from jobs.ledger import Counts, ShardLease, read_row
from jobs.ledger.keys import done_key, leases_key, partial_key, rows_channel, rows_key
from jobs.result_row import ResultRow
from vllm_mlx.outputs import GenerationOutput, MediaInfo, TokenLogprob

RUN = "run-1"


def row(place: int, text: str = "said", **changes: Any) -> ResultRow:
    output = GenerationOutput(text, 3, 2, "stop", "m")
    return ResultRow(**{"id": f"r{place}", "row": place, "output": output, "worker": "w"} | changes)


def claim(redis: Redis, shard: int = 0) -> ShardLease:
    lease = ShardLease.claim(redis, RUN, shard)
    assert lease is not None
    return lease


def test_an_heir_knows_what_was_recorded(redis: Redis) -> None:
    first = claim(redis)
    rows = {3: row(3), 7: row(7, "half \ud800", attempts=2, sample_index=1)}
    first.record(rows, Counts.of(rows.values()))

    heir = claim(redis)

    assert (first.fencing_token, first.known) == (1, {})
    assert heir.fencing_token == 2
    assert heir.known[3] == rows[3]
    assert heir.known[7].output.text == "half \ufffd"
    assert redis.hgetall(partial_key(RUN)) == {b"0": b"[2, 0, 6, 4, 0]"}


def test_all_of_an_output_survives() -> None:
    token = TokenLogprob(5, "a", -math.inf, (TokenLogprob(6, "b", -0.5),))
    seen = MediaInfo("video", "ff", 8, 8, 1.5, (0.0, 0.5), truncated=True)
    output = GenerationOutput(
        "a",
        *(1, 1, "error", "m", 7, 2, 0.5),
        logprobs=(token,),
        prompt_logprobs=(None, token),
        media=(seen,),
        error_type="MediaError",
        error="no\nsuch file",
        reasoning="because",
        reasoning_tokens=3,
        complete=False,
    )

    assert read_row(row(0, output=output).encode()) == row(0, output=output)


def test_who_slept_is_refused(redis: Redis) -> None:
    sleeper = claim(redis)
    heir = claim(redis)
    heir.record({0: row(0, "heir")}, Counts(1, 0, 3, 2))

    for act in (
        sleeper.check,
        lambda: sleeper.record({0: row(0, "late")}, Counts(1)),
        lambda: sleeper.commit(Counts(9, 9, 9, 9)),
    ):
        with pytest.raises(LeaseLostError, match="claimed by another worker"):
            act()

    assert redis.hlen(done_key(RUN)) == 0
    assert claim(redis).known[0].output.text == "heir"


def test_a_commit_frees_the_rows_and_counts_once(redis: Redis) -> None:
    lease = claim(redis)
    lease.record({0: row(0)}, Counts(1, 0, 3, 2))

    for _ in range(2):  # the reply to the first was lost
        lease.commit(Counts(1, 0, 3, 2))
        lease.record({0: row(0)}, Counts(1, 0, 3, 2))

    assert redis.hgetall(done_key(RUN)) == {b"0": b"[1, 0, 3, 2, 0]"}
    assert not redis.exists(rows_key(RUN, 0), partial_key(RUN))
    assert ShardLease.claim(redis, RUN, 0) is None


def test_claims_without_a_row_are_counted(redis: Redis) -> None:
    assert [claim(redis).idle for _ in range(3)] == [1, 2, 3]
    lease = claim(redis)
    lease.record({0: row(0)}, Counts(1))

    assert (claim(redis).idle, claim(redis, shard=1).idle) == (1, 1)


def test_a_shard_handed_back_in_order_was_not_idle(redis: Redis) -> None:
    for _ in range(3):
        claim(redis).release()
    late = claim(redis)
    assert late.idle == 1

    claim(redis)
    with pytest.raises(LeaseLostError):
        late.release()


def test_rows_are_told_as_they_are_recorded(redis: Redis) -> None:
    with redis.pubsub() as channel:
        channel.subscribe(rows_channel(RUN))
        channel.get_message(timeout=1)
        claim(redis).record({4: row(4)}, Counts(1))
        message = channel.get_message(timeout=1)

    assert message is not None
    assert read_row(message["data"]) == row(4)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]\n{}",
        b'{"id": 1, "row": 0, "sample_index": 0, "attempts": 1, "worker": "w"}\n{"text": "a"}',
        json.dumps({"id": "a", "row": 0, "sample_index": 0, "attempts": 1, "worker": "w"}).encode(),
        b"[" * 100_000,
        b"\x80\x04\x95",
    ],
    ids=range(7),
)
def test_what_somebody_else_wrote_is_named(redis: Redis, raw: bytes) -> None:
    redis.hset(rows_key(RUN, 0), "0", raw)
    redis.hset(rows_key(RUN, 0), "1", row(1).encode())

    with pytest.raises(LedgerError, match="in place of a row"):
        read_row(raw)
    assert claim(redis).known == {1: row(1)}, "the other one is made again"


def test_a_place_is_a_number(redis: Redis) -> None:
    redis.hset(rows_key(RUN, 0), "-1", row(0).encode())

    assert claim(redis).known == {}


@pytest.mark.parametrize("key", [leases_key(RUN), done_key(RUN), rows_key(RUN, 0)])
def test_a_key_of_another_kind_is_named(redis: Redis, key: str) -> None:
    lease = claim(redis)
    redis.delete(key)
    redis.set(key, "text")

    acts = [lambda: lease.record({0: row(0)}, Counts(1)), lambda: claim(redis)]
    if key != rows_key(RUN, 0):  # it does not look there
        acts.append(lease.check)
    for act in acts:
        with pytest.raises(LedgerError, match="another program wrote into the records of run-1"):
            act()


def test_who_committed_is_refused_once_the_shard_is_made_anew(redis: Redis) -> None:
    """Its reply was lost, it slept, and woke up after `retry`: its part has the old errors."""
    sleeper = claim(redis)
    sleeper.commit(Counts(0, 1))
    sleeper.check()  # it may say so again
    redis.hdel(done_key(RUN), "0")

    for act in (
        sleeper.check,
        lambda: sleeper.record({0: row(0, "late")}, Counts(1)),
        lambda: sleeper.commit(Counts(0, 1)),
    ):
        with pytest.raises(LeaseLostError):
            act()
    heir = claim(redis)
    assert (heir.fencing_token, heir.known) == (2, {})


@pytest.mark.parametrize(
    "raw", [b"", b"[1, 2, 3]", b"[1, 2, 3, true]", b"{}", b"\xff", b"[" * 10**5], ids=range(6)
)
def test_counts_are_four_numbers(raw: bytes) -> None:
    with pytest.raises(LedgerError, match="in place of counts"):
        Counts.decode(raw)
