"""Jobs that others put into our queue, or hang on our jobs: refused, never run, never fatal."""

from __future__ import annotations

import http.server
import io
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rich.console import Console
from rq import Queue
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from jobs.ledger import Ledger
from jobs.queue.job import BatchJob
from jobs.queue.run_jobs import open_queue
from jobs.run_spec import queue_name
from tests.helpers.bench import Bench
from tests.helpers.engines import MODEL, DoubleEngine, wait_for
from worker.batch_worker import BatchWorker
from worker.cli.status_view import print_status
from worker.status.live import Live
from worker.status.status import run_status

QUEUE = queue_name(MODEL)
CALLBACKS = ("success_callback_name", "failure_callback_name", "stopped_callback_name")


def step(worker: BatchWorker) -> None:
    worker.admit(wait=False)
    worker.settle()


def reason_of(job: Job) -> str:
    result = job.latest_result()
    assert result is not None
    return str(result.exc_string)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `trap_module` that leaves a file where it is imported."""
    sprung = tmp_path / "sprung"
    source = f"import pathlib\npathlib.Path({str(sprung)!r}).touch()\ndef spring(*_): pass\n"
    (tmp_path / "trap_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trap_module", raising=False)
    return sprung


@pytest.fixture
def webhook_calls() -> Iterator[tuple[str, list[str]]]:
    """A web server: its URL, and the paths that were asked of it."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()
        thread.join()


def foreign_jobs() -> dict[str, dict[str, Any]]:
    return {
        "another function": {"serializer": JSONSerializer},
        "positional arguments": {"serializer": JSONSerializer, "args": (1, 2)},
        "a pickle": {},
    }


@pytest.mark.parametrize("kind", foreign_jobs())
def test_a_foreign_job_fails_with_a_message_and_its_neighbours_go_on(
    bench: Bench, trap: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    options = foreign_jobs()[kind]
    foreign = Queue(QUEUE, connection=bench.redis, serializer=options.pop("serializer", None))
    foreign.enqueue("trap_module.spring", job_id="foreign", **options)
    spec = bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine())

    step(worker)

    job = BatchJob.fetch("foreign", bench.redis, JSONSerializer)
    assert job.get_status() == "failed"
    assert reason_of(job).startswith("JobPayloadError: ")
    assert "JobPayloadError" in caplog.text
    assert not trap.exists()
    assert bench.status(spec, 0) == "finished"
    assert open_queue(bench.redis, QUEUE).intermediate_queue.get_job_ids() == []


def test_a_foreign_job_is_not_retried(bench: Bench) -> None:
    from rq.job import Retry

    queue = Queue(QUEUE, connection=bench.redis, serializer=JSONSerializer)
    queue.enqueue("some.function", job_id="foreign", retry=Retry(max=3))
    step(bench.worker(DoubleEngine()))

    assert BatchJob.fetch("foreign", bench.redis, JSONSerializer).get_status() == "failed"


def test_a_job_of_an_unknown_run_fails(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    Ledger(bench.redis).forget(spec.run_id)
    step(bench.worker(DoubleEngine()))

    assert bench.status(spec, 0) == "failed"


def test_a_job_of_another_models_run_fails(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2, model="other-model")
    open_queue(bench.redis, QUEUE).push_job_id(spec.shard_id(0))
    engine = DoubleEngine()
    step(bench.worker(engine))

    job = BatchJob.fetch(spec.shard_id(0), bench.redis, JSONSerializer)
    assert "wants other-model, this worker has smollm2-135m" in reason_of(job)
    assert engine.asked == []


def test_callbacks_of_a_job_are_never_imported(bench: Bench, trap: Path) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    callbacks = dict.fromkeys(CALLBACKS, "trap_module.spring")
    bench.redis.hset(BatchJob.key_for(spec.shard_id(0)), mapping=callbacks)
    engine = DoubleEngine()

    step(bench.worker(engine))

    assert bench.status(spec, 0) == "failed"
    assert engine.asked == []
    assert not trap.exists()


def abandon(redis: Redis, job_id: str) -> StartedJobRegistry:
    """The job's worker died: nobody renewed its lease."""
    registry = open_queue(redis, QUEUE).started_job_registry
    for entry in redis.zrange(registry.key, 0, -1):
        if entry.decode().startswith(job_id):
            redis.zadd(registry.key, {entry: time.time() - 1})
    return registry


@pytest.mark.parametrize("retries_left", [0, 3])
def test_cleaning_up_after_a_dead_worker_imports_and_calls_nothing(
    bench: Bench, trap: Path, webhook_calls: tuple[str, list[str]], retries_left: int
) -> None:
    url, calls = webhook_calls
    spec = bench.enqueue(rows=2, shard_size=2)
    worker = bench.worker(DoubleEngine(held=True))
    worker.admit(wait=False)
    planted = dict.fromkeys(CALLBACKS, "trap_module.spring") | {
        "retries_left": retries_left,
        "webhooks": f'[{{"url": "{url}/failed", "job_status": "failed"}}]',
    }
    bench.redis.hset(BatchJob.key_for(spec.shard_id(0)), mapping=planted)

    abandon(bench.redis, spec.shard_id(0)).cleanup()

    assert bench.status(spec, 0) == ("scheduled" if retries_left else "failed")
    assert not trap.exists()
    assert calls == []


def test_webhooks_of_a_job_are_not_called(
    bench: Bench, webhook_calls: tuple[str, list[str]]
) -> None:
    url, calls = webhook_calls
    spec = bench.enqueue(rows=2, shard_size=2)
    hooks = f'[{{"url": "{url}/done", "job_status": "finished"}}]'
    bench.redis.hset(BatchJob.key_for(spec.shard_id(0)), "webhooks", hooks)

    step(bench.worker(DoubleEngine()))

    assert bench.status(spec, 0) == "finished"
    assert calls == []


@pytest.mark.parametrize("depends_on", ["a shard", "the finalize job"])
def test_a_job_of_somebody_else_may_wait_for_ours(
    bench: Bench, trap: Path, depends_on: str
) -> None:
    """The natural way to start what comes after a run."""
    spec = bench.enqueue(rows=2, shard_size=2)
    awaited = spec.shard_id(0) if depends_on == "a shard" else spec.finalize_id
    theirs = Queue("theirs", connection=bench.redis)
    theirs.enqueue("trap_module.spring", 1, job_id="next", depends_on=awaited)
    assert Job.fetch("next", bench.redis).get_status() == "deferred"
    worker = bench.worker(DoubleEngine())

    def is_complete() -> bool:
        step(worker)
        return bench.status(spec) == "finished"

    wait_for(is_complete, timeout=5)
    assert Job.fetch("next", bench.redis).get_status() == "queued"
    assert theirs.get_job_ids() == ["next"]
    assert not trap.exists()


def test_a_job_whose_record_is_gone_is_passed_over(bench: Bench) -> None:
    open_queue(bench.redis, QUEUE).push_job_id("no-such-job")
    spec = bench.enqueue(rows=2, shard_size=2)

    step(bench.worker(DoubleEngine()))

    assert bench.status(spec, 0) == "finished"


def test_a_job_with_a_broken_record_does_not_end_the_worker(bench: Bench) -> None:
    broken = bench.enqueue(rows=2, shard_size=2, say="broken")
    bench.redis.hset(BatchJob.key_for(broken.shard_id(0)), "timeout", "soon")
    spec = bench.enqueue(rows=2, shard_size=2)

    step(bench.worker(DoubleEngine()))

    assert bench.status(spec, 0) == "finished"
    assert open_queue(bench.redis, QUEUE).intermediate_queue.get_job_ids() == []


def test_rows_with_columns_that_the_run_lacks_fail_at_once(bench: Bench) -> None:
    spec = bench.enqueue(rows=1, shard_size=1)
    job = open_queue(bench.redis, QUEUE).fetch_job(spec.shard_id(0))
    assert job is not None
    job.kwargs = {**job.kwargs, "rows": [{"row": 0, "data": {"prompt": "a", "more": 1}}]}
    job.save()

    step(bench.worker(DoubleEngine()))

    assert bench.status(spec, 0) == "failed"
    job = BatchJob.fetch(spec.shard_id(0), bench.redis, JSONSerializer)
    assert reason_of(job).startswith("JobPayloadError: row 0 has a column that its run has not")


def test_what_a_terminal_would_obey_is_not_shown(bench: Bench) -> None:
    spec = bench.enqueue(rows=1, shard_size=1)
    reason = "\x1b]0;title\x07 \x1b[2J \u202e [bold]text[/nothing]"
    console = Console(file=io.StringIO(), width=200, force_terminal=True)

    status = run_status(bench.redis, spec.run_id)
    print_status(
        console, replace(status, errors={"\x1b[31m[/x]": reason}, workers={"\x9b": Live()})
    )

    shown = console.file.getvalue()
    assert "[bold]text[/nothing]" in shown
    for bad in ("\x1b]", "\x07", "\x1b[2J", "\x1b[31m[/x]", "\x9b", "\u202e"):
        assert bad not in shown


def test_a_thousand_broken_records_in_a_row_are_passed_over(bench: Bench) -> None:
    """More than Python nests calls."""
    spec = bench.enqueue(rows=2, shard_size=2)
    with bench.redis.pipeline() as pipeline:
        for number in range(1100):
            pipeline.hset(f"rq:job:broken{number}", mapping={"created_at": "x", "data": b"\xff"})
            pipeline.hset(f"rq:job:broken{number}", "status", b"\xff\xfe")
            pipeline.lpush(f"rq:queue:{spec.queue}", f"broken{number}")
        pipeline.execute()

    bench.burst(DoubleEngine())

    assert bench.status(spec) == "finished"
