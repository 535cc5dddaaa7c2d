"""Fields of a job's record that a stranger has changed: it costs that job, and no worker."""

from __future__ import annotations

import pytest

from tests.helpers.bench import Bench
from tests.helpers.engines import DoubleEngine

NUMBERS = ["timeout", "result_ttl", "failure_ttl", "ttl", "retries_left", "repeats_left"]
OTHERS = ["retry_intervals", "repeat_intervals", "dependency_ids", "created_at", "started_at"]


@pytest.mark.parametrize("field", [*NUMBERS, *OTHERS])
@pytest.mark.parametrize("value", ["9" * 400, "-1", "nan", "[1e999]"], ids=range(4))
def test_a_changed_field_stops_nobody(bench: Bench, field: str, value: str) -> None:
    changed = bench.enqueue(rows=2, shard_size=2, say="changed")
    other = bench.enqueue(rows=2, shard_size=2, say="other")
    bench.redis.hset(f"rq:job:{changed.shard_id(0)}", field, value)

    worker = bench.burst(DoubleEngine())

    assert not worker.stop_signal.is_requested, "it came to an end by itself"
    assert bench.status(other, 0) == bench.status(other) == "finished"
