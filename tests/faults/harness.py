"""`Stage`: a server, runs and workers, each a process that a test may kill, freeze or starve."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset
from redis import Redis
from rq.worker.base import BaseWorker

from jobs.dataset import verify
from jobs.ledger import Ledger
from jobs.queue.run_jobs import open_queue
from jobs.run_spec import RunSpec
from tests.faults.server import Server
from tests.helpers.engines import MODEL, wait_for, write_prompts
from tests.helpers.engines import enqueue as enqueue_prompts
from vllm_mlx.sampling_params import SamplingParams
from worker.status.status import run_status

FULL = os.environ.get("FAULTS") == "full"
SEQS = 16  # rows side by side in a worker
DELAY = 0.3  # seconds a row takes on average: 2,000 rows on two workers take 20 s
COMPARED = ("id", "row", "sample_index", "text", "finish_reason", "error_type", "error")


@dataclass(frozen=True)
class Event:
    """What a worker's engine did with a row: `asked`, `begun` or `answered`.

    Attributes:
        at: seconds, by one clock for all.
        pid: of the engine's process.
    """

    at: float
    worker: str
    pid: int
    what: str
    row: int


class Worker:
    """`mlx-batch worker` as a process, see `fault_worker`. Its engine is its child.

    Attributes:
        label: its name, made unique.
    """

    def __init__(self, label: str, process: subprocess.Popen[bytes], output: Path) -> None:
        self.label = label
        self.pid = process.pid
        self._process = process
        self._output = output

    @property
    def said(self) -> str:
        return self._output.read_text(errors="replace")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, signum: signal.Signals) -> None:
        self._process.send_signal(signum)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def wait(self, timeout: float) -> int:
        return self._process.wait(timeout)

    @property
    def is_stopped(self) -> bool:
        """Whether a SIGSTOP holds it."""
        state = subprocess.run(
            ["ps", "-o", "state=", "-p", str(self.pid)], capture_output=True, text=True
        )
        return state.stdout.strip().startswith("T")


class Stage:
    """One test's processes, and what they left behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = Server(folder / "redis")
        self.workers: list[Worker] = []
        self._log = folder / "events.log"

    def open(self) -> Stage:
        self.server.start()
        return self

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.server.kill()

    # A run.

    def enqueue(self, rows: int, *, shard_size: int = 50, **options: Any) -> RunSpec:
        options = {"sampling": SamplingParams.of(temperature=0)} | options
        with self.server.client() as redis:
            return enqueue_prompts(redis, self.folder, rows, shard_size, **options)

    def start(
        self,
        *flags: object,
        name: str | None = None,
        delay: float = DELAY,
        url: str | None = None,
        **faults: object,
    ) -> Worker:
        """Start a worker; `faults` are `fault_worker`'s settings: `FAULT="kill:after_rename"`."""
        label = f"{name or 'worker'}-{len(self.workers)}"
        words = ["--model", MODEL, "--max-num-seqs", SEQS, "--name", name or label]
        words += ["--output-root", "/", *flags]
        command = [sys.executable, "-m", "tests.faults.fault_worker", *map(str, words)]
        settings = {"FAULT_LOG": self._log, "FAULT_DELAY": delay, "FAULT_WORKER": label, **faults}
        environment = {**os.environ, "RQ_REDIS_URL": url or self.server.url}
        environment |= {key: str(value) for key, value in settings.items()}
        output = self.folder / f"{label}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        self.workers.append(Worker(label, process, output))
        return self.workers[-1]

    def finish(self, spec: RunSpec, timeout: float = 120) -> None:
        """Wait until the run is over and every job of it is put away."""
        deadline = time.monotonic() + timeout
        with self.server.client() as redis:
            while True:
                somebody_works = any(worker.is_alive for worker in self.workers)
                status = run_status(redis, spec.run_id)
                left = left_in_rq(redis, spec)
                if status.is_finished and not left:
                    return
                assert not status.errors, status.errors
                assert somebody_works, f"all workers have ended; {left}"
                assert time.monotonic() < deadline, f"{status.state}; {left}"
                time.sleep(0.1)

    def check(self, spec: RunSpec, undisturbed: dict[str, Any]) -> None:
        """The run lacks nothing, has nothing twice, and equals the one that nobody disturbed."""
        out = Path(spec.out)
        found = verify(out)
        assert found.problems == []
        assert (out / "_SUCCESS").exists()
        assert_equal_datasets(rows_of(out), undisturbed)
        with self.server.client() as redis:
            assert left_in_rq(redis, spec) == []
            done = Ledger(redis).progress(spec.run_id).done
        assert (done.ok, done.error) == (found.ok, found.error)

    # What happened.

    def events(self) -> list[Event]:
        if not self._log.exists():
            return []
        lines = (line.split() for line in self._log.read_text().splitlines())
        return [
            Event(float(at), worker, int(pid), what, int(row))
            for at, worker, pid, what, row in lines
        ]

    def rows(self, what: str, worker: Worker | None = None) -> list[int]:
        """The rows of which something was logged, each as often as it was."""
        label = worker and worker.label
        return [e.row for e in self.events() if e.what == what and label in (None, e.worker)]

    def generated_again(self) -> int:
        begun = self.rows("begun")
        return len(begun) - len(set(begun))

    def is_known(self, worker: Worker) -> bool:
        """Whether it has told Redis that it lives."""
        with self.server.client() as redis:
            return bool(redis.exists(f"{BaseWorker.redis_worker_namespace_prefix}{worker.label}"))

    def open_rows(self, worker: Worker) -> set[int]:
        """The rows that a worker took and has not answered."""
        return set(self.rows("asked", worker)) - set(self.rows("answered", worker))

    def wait_for_rows(
        self, what: str, count: int, worker: Worker | None = None, timeout: float = 60
    ) -> None:
        wait_for(lambda: len(set(self.rows(what, worker))) >= count, timeout)


def rows_of(out: Path) -> dict[str, Any]:
    """The dataset, by row id."""
    table = pyarrow.dataset.dataset(f"{out}/data", format="parquet").to_table()
    return {row["id"]: row for row in table.to_pylist()}


def assert_equal_datasets(these: dict[str, Any], those: dict[str, Any]) -> None:
    assert these.keys() == those.keys()
    for row_id, row in these.items():
        other = those[row_id]
        assert {name: row[name] for name in COMPARED} == {name: other[name] for name in COMPARED}


def left_in_rq(redis: Redis, spec: RunSpec) -> list[str]:
    """Jobs that RQ thinks are not at an end, and executions that nobody runs."""
    queue = open_queue(redis, spec.queue)
    left = [f"started {job_id}" for job_id, _ in _started(queue)]
    left += [f"queued {job_id}" for job_id in queue.get_job_ids()]
    left += [f"taken {job_id}" for job_id in queue.intermediate_queue.get_job_ids()]
    for name in ("failed_job_registry", "scheduled_job_registry", "deferred_job_registry"):
        left += [f"{name} {job_id}" for job_id in getattr(queue, name).get_job_ids(cleanup=False)]
    left += [f"key {key.decode()}" for key in redis.scan_iter("rq:execution*")]
    return left


def _started(queue: Any) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = queue.started_job_registry.get_job_and_execution_ids(
        cleanup=False
    )
    return pairs


def front_of_queue(redis: Redis, spec: RunSpec) -> list[int]:
    """The shards that wait, in the order in which they will be taken."""
    ids = open_queue(redis, spec.queue).get_job_ids()
    return [int(job_id.rpartition("-")[2]) for job_id in ids if re.search(r"-\d+$", job_id)]


def known_workers(redis: Redis, spec: RunSpec) -> list[str]:
    keys = BaseWorker.all_keys(connection=redis, queue=open_queue(redis, spec.queue))
    return [key.rpartition(":")[2] for key in keys]


def mlx_batch(*words: object, url: str) -> subprocess.CompletedProcess[str]:
    """The command line, as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "worker.cli", *map(str, words)],
        env={**os.environ, "RQ_REDIS_URL": url, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def prompts(path: Path, rows: int) -> Path:
    """The prompt file that `Stage.enqueue` makes."""
    return write_prompts(path, rows)


Undisturbed = Callable[[int], dict[str, Any]]
