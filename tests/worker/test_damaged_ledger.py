"""A key of the ledger that holds another kind of value costs its own run's jobs, and no worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from redis import Redis

from jobs.ledger.keys import done_key, leases_key, partial_key, rows_key, run_key
from tests.helpers.engines import DoubleEngine, enqueue, status_of
from tests.worker.conftest import StartWorker, work_in_burst
from worker.cli.app import main


def shard_rows(run_id: str) -> str:
    return rows_key(run_id, 0)


@pytest.mark.parametrize("key", [run_key, shard_rows, leases_key, done_key, partial_key])
def test_a_key_of_another_kind(
    redis: Redis, redis_url: str, tmp_path: Path, key: Callable[[str], str]
) -> None:
    bad = enqueue(redis, tmp_path, rows=4, shard_size=4, say="bad")
    good = enqueue(redis, tmp_path, rows=4, shard_size=4, say="good")
    redis.delete(key(bad.run_id))
    redis.set(key(bad.run_id), "x")

    work_in_burst(redis_url, DoubleEngine())

    assert status_of(redis, bad, 0) == "failed"
    assert status_of(redis, good, 0) == status_of(redis, good) == "finished"
    said = CliRunner().invoke(main, ["status", "-u", redis_url])
    assert said.exit_code == 0, said.output
    assert good.run_id in said.stdout


@pytest.mark.parametrize("epoch", ["x", str(2**63 - 1)])
def test_an_epoch_that_is_none(redis: Redis, redis_url: str, tmp_path: Path, epoch: str) -> None:
    bad = enqueue(redis, tmp_path, rows=4, shard_size=4, say="bad")
    good = enqueue(redis, tmp_path, rows=4, shard_size=4, say="good")
    redis.hset(leases_key(bad.run_id), "0", epoch)

    work_in_burst(redis_url, DoubleEngine())

    assert status_of(redis, bad, 0) == "failed"
    assert status_of(redis, good, 0) == "finished"


@pytest.mark.parametrize("key", [leases_key, partial_key])
def test_a_key_that_is_replaced_in_flight(
    redis: Redis, tmp_path: Path, start_worker: StartWorker, key: Callable[[str], str]
) -> None:
    spec = enqueue(redis, tmp_path, rows=4, shard_size=4)
    engine = DoubleEngine(held=True)
    worker = start_worker(engine)
    worker.admit(wait=False)
    redis.delete(key(spec.run_id))
    redis.set(key(spec.run_id), "x")

    engine.answer(2)
    worker.settle()

    assert status_of(redis, spec, 0) == "failed"
    assert worker.flights == {}
