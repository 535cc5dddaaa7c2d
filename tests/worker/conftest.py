"""Workers for the tests: in this process, driven step by step, or as a process of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.connection import connect
from tests.helpers.engines import MODEL, DoubleEngine, wait_for
from worker import batch_worker
from worker.batch_worker import BatchWorker

StartWorker = Callable[..., BatchWorker]
StartProcess = Callable[..., subprocess.Popen[str]]


def work_in_burst(
    redis_url: str, engine: DoubleEngine, model: str = MODEL, **options: Any
) -> BatchWorker:
    """Run all that is enqueued, in this process; stopped if there is no end to it."""
    with connect(redis_url) as connection:
        worker = BatchWorker(model, engine, connection=connection, grace=0, **options)
        watchdog = threading.Timer(20, worker.request_stop, (signal.SIGTERM, None))
        watchdog.start()
        try:
            worker.work(burst=True)
        finally:
            watchdog.cancel()
            watchdog.join()
    return worker


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """A worker replaces the handlers of its process, which is this one."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture
def two_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers hold two batches and no more, as where others need the rest."""
    monkeypatch.setattr(batch_worker, "FULL_WINDOW", batch_worker.LOOKAHEAD)


@pytest.fixture
def start_worker(redis_url: str) -> Iterator[StartWorker]:
    """Registers a worker whose steps the test takes: `admit`, `settle`, `tend`.

    Its own loop would run on: no state could be held and looked at.
    """
    started: list[BatchWorker] = []

    def start(engine: DoubleEngine, model: str = MODEL, **options: object) -> BatchWorker:
        worker = BatchWorker(model, engine, connection=connect(redis_url), **options)
        engine.start()
        worker.register()
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker._shut_down()
        worker.connection.close()


@pytest.fixture
def start_process(redis_url: str, tmp_path: Path) -> Iterator[StartProcess]:
    """Starts `tests.helpers.double_worker` and waits until it is at work."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str, name: str = "other", until: Callable[[], object]) -> object:
        command = [sys.executable, "-m", "tests.helpers.double_worker", redis_url, name, *options]
        log = (tmp_path / f"{name}.log").open("w")
        with log:
            process = subprocess.Popen(command, stdout=log, stderr=log, text=True)
        started.append(process)
        wait_for(until)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
