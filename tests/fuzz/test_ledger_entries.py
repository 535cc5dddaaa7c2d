"""Anything in the ledger: progress, rows and a lease, or an error that we name."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from rich.console import Console

from jobs.connection import connect
from jobs.ledger import Counts, Ledger, ShardLease, read_row
from jobs.ledger.keys import (
    done_key,
    leases_key,
    live_key,
    partial_key,
    rows_key,
    run_key,
    stretch_key,
)
from jobs.result_row import ResultRow
from jobs.run_spec import RunSpec
from jobs.wording import row_as_line
from tests.helpers.engines import enqueue
from tests.helpers.strategies import cases, changed, only
from vllm_mlx.errors import MLXBatchError
from vllm_mlx.outputs import GenerationOutput, MediaInfo
from worker.cli.status_view import print_status
from worker.status.status import run_status

COUNTS = Counts(1, 2, 3, 4, 5, {"KeyError": 2}).encode().encode()
MEDIA = (MediaInfo("video", "ab", 4, 4, 1.0, (0.0, 0.5)),)
OUTPUT = GenerationOutput("text", 1, 2, "stop", "m", seed=1, media=MEDIA)
ROW = ResultRow("id", 0, OUTPUT).encode()
LIVE = b'{"model": "m", "tokens_per_second": 1.5, "running": 1, "time_shares": {"decode": 0.5}}'
ENTRIES = st.binary(max_size=60) | changed(COUNTS) | changed(ROW) | st.integers().map(str)
HASHES = st.dictionaries(st.integers(0, 3).map(str) | st.binary(max_size=9), ENTRIES, max_size=3)


class Planted:
    """A run on a server of its own, into whose records things are put."""

    def __init__(self, redis: Redis, folder: Path) -> None:
        self.redis = redis
        self.spec: RunSpec = enqueue(redis, folder, rows=4, shard_size=2)
        self._raw = redis.hget(run_key(self.spec.run_id), "spec")
        redis.sadd(f"rq:workers:{self.spec.queue}", "rq:worker:fake")

    @property
    def raw(self) -> bytes:
        assert self._raw is not None
        return self._raw

    def plant(self, spec: bytes, state: bytes, hashes: dict[str, dict[object, bytes]]) -> None:
        run_id = self.spec.run_id
        self.redis.hset(run_key(run_id), mapping={"spec": spec, "state": state})
        for key, entries in hashes.items():
            self.redis.delete(key)
            if entries:
                self.redis.hset(key, mapping=entries)


@pytest.fixture(scope="module")
def planted(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    with connect(redis_server) as redis:
        redis.flushall()
        yield Planted(redis, tmp_path_factory.mktemp("ledger"))


def attempt(look: Callable[[], object]) -> None:
    with only(MLXBatchError):
        look()


def look_everywhere(planted: Planted) -> None:
    ledger, run_id = Ledger(planted.redis), planted.spec.run_id
    attempt(ledger.runs)
    attempt(lambda: ledger.progress(run_id))
    attempt(lambda: ledger.done_shards(run_id))
    attempt(lambda: ShardLease.claim(planted.redis, run_id, 0))
    attempt(lambda: show(planted.redis, run_id))


def show(redis: Redis, run_id: str) -> None:
    status = run_status(redis, run_id)
    status.as_dict()
    print_status(Console(file=io.StringIO()), status)


@cases(0.1)
@given(data=st.data())
def test_any_entries(planted: Planted, data: st.DataObject) -> None:
    run_id = planted.spec.run_id
    names = (done_key, leases_key, partial_key, stretch_key)
    keys = [*(name(run_id) for name in names), rows_key(run_id, 0)]
    hashes = {key: data.draw(HASHES) for key in keys}
    spec = data.draw(st.just(planted.raw) | changed(planted.raw) | st.binary(max_size=20))
    state = data.draw(st.sampled_from([b"running", b"finished"]) | st.binary(max_size=9))
    planted.redis.set(live_key("fake"), data.draw(changed(LIVE) | st.binary(max_size=20)))
    planted.plant(spec, state, hashes)
    look_everywhere(planted)


@pytest.mark.parametrize("name", [run_key, done_key, leases_key, partial_key, stretch_key])
def test_keys_of_another_kind(planted: Planted, name: Callable[[str], str]) -> None:
    planted.plant(planted.raw, b"running", {})
    key = name(planted.spec.run_id)
    planted.redis.delete(key)
    planted.redis.set(key, "text")
    look_everywhere(planted)
    planted.redis.delete(key)


@cases(0.05)
@given(raw=changed(ROW) | st.binary(max_size=60))
def test_any_row(raw: bytes) -> None:
    attempt(lambda: row_as_line(read_row(raw)))


@cases(0.05)
@given(raw=changed(COUNTS) | st.binary(max_size=30))
def test_any_counts(raw: bytes) -> None:
    attempt(lambda: sum(map(Counts.decode, [raw, raw]), Counts()))
