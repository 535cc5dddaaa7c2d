"""What counts as a job of ours: data that is compared and validated, never imported or run."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from jobs.errors import JobPayloadError
from jobs.queue.job import BatchJob
from jobs.queue.run_jobs import open_queue
from jobs.queue.tasks import (
    FINALIZE_RUN,
    GENERATE_SHARD,
    FinalizeRun,
    GenerateShard,
    finalize_run,
    generate_shard,
    read_task,
)
from tests.helpers.engines import enqueue, job_of

SHARD: dict[str, Any] = {
    "run_id": "run-1",
    "shard": 0,
    "rows": [{"row": 0, "data": {"prompt": "hi"}}],
}


def stored(redis: Redis, name: Any, *args: Any, **options: Any) -> BatchJob:
    """A job as a worker finds it in Redis."""
    options = {"kwargs": SHARD} | options
    job = Job.create(
        name,
        args=args,
        connection=redis,
        serializer=JSONSerializer,
        id="the-job",
        origin="mlx-queue",
        **options,
    )
    job.save()
    return BatchJob.fetch("the-job", redis, JSONSerializer)


def store_data(redis: Redis, data: bytes) -> BatchJob:
    job = stored(redis, GENERATE_SHARD)
    redis.hset(job.key, "data", data)
    return BatchJob.fetch("the-job", redis, JSONSerializer)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `trap_module` that leaves a file where it is imported."""
    sprung = tmp_path / "sprung"
    source = f"import pathlib\npathlib.Path({str(sprung)!r}).touch()\ndef spring(*_): pass\n"
    (tmp_path / "trap_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trap_module", raising=False)
    return sprung


def test_the_jobs_of_a_producer_are_read(redis: Redis, tmp_path: Path) -> None:
    spec = enqueue(redis, tmp_path, rows=3, shard_size=2)

    shard = read_task(job_of(redis, spec, 1))
    finalize = read_task(job_of(redis, spec))

    assert isinstance(shard, GenerateShard)
    assert (shard.run_id, shard.shard) == (spec.run_id, 1)
    assert [(row.row, row.data) for row in shard.rows] == [(2, {"id": "r2", "prompt": "prompt 2"})]
    assert finalize == FinalizeRun(run_id=spec.run_id)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "jobs.queue.tasks.other",
        "jobs.queue.tasks.generate_shard.x",
        "trap_module.spring",
    ],
)
def test_another_function_is_refused_and_not_imported(redis: Redis, trap: Path, name: str) -> None:
    with pytest.raises(JobPayloadError, match=f"not '{name}'"):
        read_task(stored(redis, name))

    assert not trap.exists()
    assert "trap_module" not in sys.modules


def test_positional_arguments_are_refused(redis: Redis) -> None:
    with pytest.raises(JobPayloadError, match="keyword arguments only"):
        read_task(stored(redis, GENERATE_SHARD, "run-1"))


def test_an_instance_is_refused(redis: Redis) -> None:
    data = JSONSerializer.dumps([GENERATE_SHARD, {"some": "object"}, [], SHARD])
    with pytest.raises(JobPayloadError, match="keyword arguments only"):
        read_task(store_data(redis, data))


@pytest.mark.parametrize("kind", ["success", "failure", "stopped"])
def test_a_callback_is_refused_and_not_imported(redis: Redis, trap: Path, kind: str) -> None:
    job = stored(redis, GENERATE_SHARD)
    redis.hset(job.key, f"{kind}_callback_name", "trap_module.spring")
    job = BatchJob.fetch("the-job", redis, JSONSerializer)

    with pytest.raises(JobPayloadError, match="no callbacks"):
        read_task(job)

    assert getattr(job, f"{kind}_callback") is None
    assert not trap.exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_not_loaded(redis: Redis, tmp_path: Path) -> None:
    data = pickle.dumps((GENERATE_SHARD, None, (), Bomb(tmp_path / "exploded")))

    with pytest.raises(JobPayloadError, match="not JSON"):
        read_task(store_data(redis, data))

    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "data", [b"", b"[1]", b"{}", b"null", b"\xff\xfe", b'"jobs.queue.tasks.generate_shard"']
)
def test_data_of_another_shape_is_refused(redis: Redis, data: bytes) -> None:
    with pytest.raises(JobPayloadError):
        read_task(store_data(redis, data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard": -1}, "shard=-1"),
        ({"shard": None}, "shard=None"),
        ({"rows": []}, "rows"),
        ({"rows": [{"row": 0}]}, "rows\\[0].data: missing"),
        ({"rows": [{"row": 0, "data": {}, "more": 1}]}, "rows\\[0].more: unknown field"),
        ({"run_id": 5}, "run_id=5"),
        ({"surprise": 1}, "surprise: unknown field; allowed are run_id, shard, rows, folder"),
    ],
)
def test_a_malformed_payload_is_refused_by_field(
    redis: Redis, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobPayloadError, match=f"^{GENERATE_SHARD}: .*{message}"):
        read_task(stored(redis, GENERATE_SHARD, kwargs=SHARD | change))


@pytest.mark.parametrize("kwargs", [["run-1"], "run-1", None, 5])
def test_arguments_that_are_no_object_are_refused(redis: Redis, kwargs: Any) -> None:
    data = JSONSerializer.dumps([FINALIZE_RUN, None, [], kwargs])
    with pytest.raises(JobPayloadError):
        read_task(store_data(redis, data))


def test_a_stock_worker_is_told_what_the_job_needs() -> None:
    for task in (generate_shard, finalize_run):
        with pytest.raises(JobPayloadError, match="mlx-batch worker"):
            task(run_id="run-1")


def test_jobs_are_stored_as_json(redis: Redis, tmp_path: Path) -> None:
    spec = enqueue(redis, tmp_path, rows=1, shard_size=1)
    assert open_queue(redis, spec.queue).serializer is JSONSerializer
    for job in (job_of(redis, spec, 0), job_of(redis, spec)):
        assert job.data.startswith(b'["jobs.queue.tasks.')
        assert job.meta == {}
