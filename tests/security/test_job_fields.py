"""Fields of a job's record that a stranger has changed: it costs that job, and no worker."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis

from tests.helpers.engines import DoubleEngine, enqueue, status_of
from tests.worker.conftest import work_in_burst

NUMBERS = ["timeout", "result_ttl", "failure_ttl", "ttl", "retries_left", "repeats_left"]
OTHERS = ["retry_intervals", "repeat_intervals", "dependency_ids", "created_at", "started_at"]


@pytest.mark.parametrize("field", [*NUMBERS, *OTHERS])
@pytest.mark.parametrize("value", ["9" * 400, "-1", "nan", "[1e999]"], ids=range(4))
def test_a_changed_field_stops_nobody(
    redis: Redis, redis_url: str, tmp_path: Path, field: str, value: str
) -> None:
    changed = enqueue(redis, tmp_path, rows=2, shard_size=2, say="changed")
    other = enqueue(redis, tmp_path, rows=2, shard_size=2, say="other")
    redis.hset(f"rq:job:{changed.shard_id(0)}", field, value)

    worker = work_in_burst(redis_url, DoubleEngine())

    assert not worker.stop_requested, "it came to an end by itself"
    assert status_of(redis, other, 0) == status_of(redis, other) == "finished"
