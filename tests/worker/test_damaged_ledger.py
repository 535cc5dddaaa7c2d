"""A key of the ledger that holds another kind of value costs its own run's jobs, and no worker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner

from jobs.ledger.keys import done_key, leases_key, partial_key, rows_key, run_key
from tests.helpers.bench import Bench
from tests.helpers.engines import DoubleEngine
from worker.cli.app import main


def shard_rows(run_id: str) -> str:
    return rows_key(run_id, 0)


@pytest.mark.parametrize("key", [run_key, shard_rows, leases_key, done_key, partial_key])
def test_a_key_of_another_kind(bench: Bench, key: Callable[[str], str]) -> None:
    bad = bench.enqueue(rows=4, shard_size=4, say="bad")
    good = bench.enqueue(rows=4, shard_size=4, say="good")
    bench.redis.delete(key(bad.run_id))
    bench.redis.set(key(bad.run_id), "x")

    bench.burst(DoubleEngine())

    assert bench.status(bad, 0) == "failed"
    assert bench.status(good, 0) == bench.status(good) == "finished"
    said = CliRunner().invoke(main, ["status", "-u", bench.url])
    assert said.exit_code == 0, said.output
    assert good.run_id in said.stdout


@pytest.mark.parametrize("epoch", ["x", str(2**63 - 1)])
def test_an_epoch_that_is_none(bench: Bench, epoch: str) -> None:
    bad = bench.enqueue(rows=4, shard_size=4, say="bad")
    good = bench.enqueue(rows=4, shard_size=4, say="good")
    bench.redis.hset(leases_key(bad.run_id), "0", epoch)

    bench.burst(DoubleEngine())

    assert bench.status(bad, 0) == "failed"
    assert bench.status(good, 0) == "finished"


@pytest.mark.parametrize("key", [leases_key, partial_key])
def test_a_key_that_is_replaced_in_flight(bench: Bench, key: Callable[[str], str]) -> None:
    spec = bench.enqueue(rows=4, shard_size=4)
    engine = DoubleEngine(held=True)
    worker = bench.worker(engine)
    worker.admit(wait=False)
    bench.redis.delete(key(spec.run_id))
    bench.redis.set(key(spec.run_id), "x")

    engine.answer(2)
    worker.settle()

    assert bench.status(spec, 0) == "failed"
    assert worker.flights == {}
