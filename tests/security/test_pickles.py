"""Pickles wherever RQ and the ledger read: none is loaded, and the good jobs are done.

Unpickling the trap makes a folder. So does the import of a module that jobs name.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.job import Job

from jobs.dataset import verify
from jobs.ledger.keys import rows_channel
from jobs.queue.job import BatchJob
from jobs.queue.tasks import GENERATE_SHARD
from jobs.run_spec import RunSpec, queue_name
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import MODEL, DoubleEngine, wait_for
from vllm_mlx.sampling_params import SamplingParams
from worker.cli.exit_codes import ExitCode
from worker.status.status import run_status

QUEUE = queue_name(MODEL)
CALLBACKS = ("success_callback_name", "failure_callback_name", "stopped_callback_name")
TIMES = ("created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat")
NUMBERS = ("timeout", "result_ttl", "failure_ttl", "ttl", "retries_left", "number_of_retries")
NUMBERS += (
    "repeats_left",
    "rate_limit_concurrency",
    "enqueue_at_front",
    "success_callback_timeout",
)
LISTS = ("dependency_ids", "retry_intervals", "repeat_intervals", "webhooks")
TEXTS = ("meta", "result", "exc_info", "worker_name", "group_id", "origin", "description", "status")
TEXTS += ("dependency_id", "rate_limit_key", "allow_dependency_failures")
FIELDS = ("data", *CALLBACKS, *TIMES, *NUMBERS, *LISTS, *TEXTS)


class Trap:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, sprung: Path) -> None:
        self._sprung = sprung

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self._sprung),)


@pytest.fixture(autouse=True)
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of dead workers' jobs some must be waited for."""
    monkeypatch.setattr("worker.rq.bookkeeper.LEASE", 1)
    monkeypatch.setattr("worker.batch_worker.MAINTENANCE", 0.2)


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """What is there once a trap has been sprung."""
    return tmp_path / "sprung"


@pytest.fixture
def trap(sprung: Path) -> bytes:
    """A pickle."""
    return pickle.dumps(Trap(sprung))


@pytest.fixture
def module(tmp_path: Path, sprung: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a function; importing its module springs the trap."""
    source = f"import os\nos.mkdir({str(sprung)!r})\ndef spring(*_, **__): pass\n"
    (tmp_path / "trap_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.delitem(sys.modules, "trap_module", raising=False)
    return "trap_module.spring"


def planted(bench: Bench, say: str = "planted") -> RunSpec:
    """A run of one shard, into whose records something is put."""
    few = SamplingParams.of(max_tokens=2)
    return bench.enqueue(rows=2, shard_size=2, say=say, sampling=few)


def plant(redis: Redis, job_id: str, field: str, value: bytes) -> None:
    redis.hset(BatchJob.key_for(job_id), field, value)


def check_work_goes_on(bench: Bench, sprung: Path) -> None:
    """All is tried that a worker and a monitor do; a run beside the planted one is completed."""
    good = bench.enqueue(rows=4, shard_size=2, say="good")

    bench.burst(DoubleEngine())

    assert not sprung.exists()
    assert run_status(bench.redis, good.run_id).is_finished
    assert verify(Path(good.out)).complete
    for words in (["status"], ["status", good.run_id], ["status", "--json"]):
        said = cli(*words, "-u", bench.url)
        assert said.exception is None or isinstance(said.exception, SystemExit), said.exception
        assert good.run_id in said.stdout
    assert not sprung.exists()


# The trap itself.


def test_the_pickle_is_a_trap(trap: bytes, sprung: Path) -> None:
    pickle.loads(trap)
    assert sprung.exists()


def test_rq_s_own_serializer_springs_it(redis: Redis, trap: bytes, sprung: Path) -> None:
    redis.hset(Job.key_for("a"), mapping={"data": b"", "meta": trap})
    Job.fetch("a", redis)
    assert sprung.exists()


def test_rq_info_springs_it(bench: Bench, trap: bytes, sprung: Path) -> None:
    """As `docs/security.md` says; should this fail one day, it may say something kinder."""
    spec = planted(bench)
    bench.redis.zadd(f"rq:wip:{QUEUE}", {f"{spec.shard_id(0)}:dead": 1})
    bench.redis.hset(
        BatchJob.key_for(spec.shard_id(0)), mapping={"status": "started", "meta": trap}
    )
    rq = Path(sys.executable).with_name("rq")

    subprocess.run([rq, "info", "-u", bench.url], capture_output=True, timeout=60, check=False)

    assert sprung.exists()


# Jobs.


@pytest.mark.parametrize("field", FIELDS)
def test_a_pickle_in_a_field_of_a_job(bench: Bench, trap: bytes, sprung: Path, field: str) -> None:
    spec = planted(bench)
    for job_id in (spec.shard_id(0), spec.finalize_id):
        plant(bench.redis, job_id, field, trap)

    check_work_goes_on(bench, sprung)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("place", range(4), ids=["function", "instance", "args", "kwargs"])
def test_a_pickle_as_a_part_of_a_call(
    bench: Bench, sprung: Path, place: int, compressed: bool
) -> None:
    spec = planted(bench)
    call: list[Any] = [GENERATE_SHARD, None, (), {}]
    call[place] = Trap(sprung)
    data = pickle.dumps(tuple(call))
    plant(bench.redis, spec.shard_id(0), "data", zlib.compress(data) if compressed else data)

    check_work_goes_on(bench, sprung)

    assert bench.status(spec, 0) == "failed"
    (reason,) = run_status(bench.redis, spec.run_id).errors.values()
    assert reason.startswith("JobPayloadError: the job's data is not JSON")


def test_a_function_that_is_not_ours_is_not_imported(
    bench: Bench, module: str, sprung: Path
) -> None:
    spec = planted(bench)
    data = json.dumps([module, None, [], {}]).encode()
    plant(bench.redis, spec.shard_id(0), "data", zlib.compress(data))

    check_work_goes_on(bench, sprung)

    assert bench.status(spec, 0) == "failed"
    (reason,) = run_status(bench.redis, spec.run_id).errors.values()
    assert reason == f"JobPayloadError: this worker runs mlx-batch jobs only, not {module!r}"


@pytest.mark.parametrize("field", CALLBACKS)
def test_a_callback_is_not_imported(bench: Bench, module: str, sprung: Path, field: str) -> None:
    spec = planted(bench)
    for job_id in (spec.shard_id(0), spec.finalize_id):
        plant(bench.redis, job_id, field, module.encode())

    check_work_goes_on(bench, sprung)
    assert bench.status(spec, 0) == "failed"


@pytest.mark.parametrize("field", ["return_value", "exc_string", "type", "worker_name"])
@pytest.mark.parametrize("of", ["shard", "finalize"])
def test_a_pickle_among_the_results_of_a_failed_job(
    bench: Bench, trap: bytes, sprung: Path, field: str, of: str
) -> None:
    spec = planted(bench)
    job_id = spec.shard_id(0) if of == "shard" else spec.finalize_id
    plant(bench.redis, spec.shard_id(0), "data", b"no job of ours")
    bench.burst(DoubleEngine())
    bench.redis.zadd(f"rq:failed:{QUEUE}", {job_id: time.time() + 1000})
    result = {"type": 2, field: base64.b64encode(trap)}
    bench.redis.xadd(f"rq:results:{job_id}", result)

    check_work_goes_on(bench, sprung)


# What holds the names of jobs, workers and queues.

SORTED_SETS = ("wip", "scheduled", "ready", "failed", "finished", "deferred", "canceled")


@pytest.mark.parametrize("name", SORTED_SETS)
@pytest.mark.parametrize("kind", ["a pickle", "no name", "a broken record"])
def test_a_registry_with_what_is_no_job(
    bench: Bench, trap: bytes, sprung: Path, name: str, kind: str
) -> None:
    broken = b"broken:1" if name == "wip" else b"broken"
    bench.redis.hset("rq:job:broken", mapping={"data": trap, "timeout": trap, "status": "started"})
    entry = {"a pickle": trap, "no name": b"../x:y:z", "a broken record": broken}[kind]
    bench.redis.zadd(f"rq:{name}:{QUEUE}", {entry: 1})
    if name == "ready":
        bench.redis.hset("rq:job:broken", "status", "ready_to_enqueue")

    check_work_goes_on(bench, sprung)


@pytest.mark.parametrize("entry", [None, b"", b"../x", b"a:b:c", b"\xff" * 9])
@pytest.mark.parametrize("key", [f"rq:queue:{QUEUE}", f"rq:queue:{QUEUE}:intermediate"])
def test_a_queue_with_what_is_no_job(
    bench: Bench, trap: bytes, sprung: Path, entry: bytes | None, key: str
) -> None:
    bench.redis.rpush(key, trap if entry is None else entry)
    check_work_goes_on(bench, sprung)


def test_jobs_that_a_dead_worker_left(bench: Bench, trap: bytes, module: str, sprung: Path) -> None:
    """What `clean_registries` makes of them: it calls callbacks, retries, and asks for results."""
    spec = planted(bench)
    bench.redis.lrem(f"rq:queue:{QUEUE}", 1, spec.shard_id(0))
    bench.redis.zadd(f"rq:wip:{QUEUE}", {f"{spec.shard_id(0)}:dead": 1})
    fields = {"status": "started", "meta": trap, "result": trap, "exc_info": trap}
    fields |= dict.fromkeys(CALLBACKS, module)
    bench.redis.hset(BatchJob.key_for(spec.shard_id(0)), mapping=fields)
    bench.redis.xadd(f"rq:results:{spec.shard_id(0)}", {"type": 2, "exc_string": trap})

    check_work_goes_on(bench, sprung)


@pytest.mark.parametrize("suffix", ["dependents", "executions"])
def test_dependents_and_executions(bench: Bench, trap: bytes, sprung: Path, suffix: str) -> None:
    spec = planted(bench)
    if suffix == "dependents":
        bench.redis.sadd(BatchJob.dependents_key_for(spec.shard_id(0)), trap, "../x", "foreign")
        bench.redis.hset("rq:job:foreign", mapping={"data": trap, "meta": trap, "origin": trap})
        bench.redis.sadd(f"rq:job::{spec.finalize_id}:dependencies", trap)
    else:
        bench.redis.zadd(f"rq:executions:{spec.shard_id(0)}", {trap: 1, b"e": 1})
        bench.redis.hset(
            f"rq:execution:{spec.shard_id(0)}:e", mapping={"created_at": trap, "id": trap}
        )

    check_work_goes_on(bench, sprung)


@pytest.mark.parametrize("key", ["rq:queues", "rq:workers", f"rq:workers:{QUEUE}", "rq:rl-keys"])
def test_lists_of_queues_and_workers(bench: Bench, trap: bytes, sprung: Path, key: str) -> None:
    bench.redis.sadd(key, trap, "rq:worker:fake", "rq:queue:mlx-fake", "nonsense")
    fields = ("queues", "current_job", "state", "birth", "last_heartbeat", "pid", "version")
    bench.redis.hset("rq:worker:fake", mapping=dict.fromkeys(fields, trap))
    bench.redis.set("mlx-batch:live:fake", trap)
    bench.redis.sadd("rq:worker:fake:executions", trap)
    bench.redis.hset("rq:scheduler:fake", mapping=dict.fromkeys(fields, trap))

    check_work_goes_on(bench, sprung)


def test_commands_to_a_worker(bench: Bench, trap: bytes, sprung: Path) -> None:
    spec = planted(bench)
    worker = bench.worker(DoubleEngine(held=True))
    worker.admit(wait=False)
    for message in (trap, b"{", b"[]", b'{"command": 1}', b'{"command": "stop-job"}'):
        bench.redis.publish(f"rq:pubsub:{worker.bookkeeper.name}", message)
    stop = {"command": "stop-job", "job_id": spec.shard_id(0)}
    bench.redis.publish(f"rq:pubsub:{worker.bookkeeper.name}", json.dumps(stop))

    def is_stopped() -> bool:
        worker.tend()
        return bench.status(spec, 0) == "stopped"

    wait_for(is_stopped, timeout=5)
    assert not sprung.exists()


# Our own keys.


@pytest.mark.parametrize(
    "where", ["spec", "state", "done", "leases", "partial", "rows", "live", "out", "runs"]
)
def test_a_pickle_in_the_ledger(bench: Bench, trap: bytes, sprung: Path, where: str) -> None:
    spec = planted(bench)
    key = f"mlx-batch:run:{spec.run_id}"
    match where:
        case "spec" | "state":
            bench.redis.hset(key, where, trap)
        case "rows":
            bench.redis.hset(f"{key}:rows:0", mapping={"0": trap, "1": trap})
        case "done" | "leases" | "partial":
            bench.redis.hset(f"{key}:{where}", mapping={"1": trap, trap: trap})
        case "live":
            bench.redis.set("mlx-batch:live:fake", trap)
            bench.redis.sadd(f"rq:workers:{QUEUE}", "rq:worker:fake")
            bench.redis.hset("rq:worker:fake", "state", "busy")
        case "out":
            bench.redis.set(f"mlx-batch:out:{spec.out}", trap)
        case "runs":
            bench.redis.zadd("mlx-batch:runs", {trap: 1})

    check_work_goes_on(bench, sprung)


def test_tail_loads_no_pickle(bench: Bench, trap: bytes, sprung: Path) -> None:
    spec = planted(bench)
    teller = threading.Timer(0.5, bench.redis.publish, (rows_channel(spec.run_id), trap))
    teller.start()

    said = cli("tail", spec.run_id, "-u", bench.url)

    teller.join()
    assert said.exit_code == ExitCode.FAILED
    assert "in place of a row" in said.stderr
    assert not sprung.exists()


# All of it at once, with the real worker.


@pytest.mark.slow
def test_a_real_worker_among_pickles(bench: Bench, trap: bytes, module: str, sprung: Path) -> None:
    specs = [planted(bench, field) for field in FIELDS]
    for spec, field in zip(specs, FIELDS, strict=True):
        plant(bench.redis, spec.shard_id(0), field, trap)
        plant(bench.redis, spec.finalize_id, field, trap)
    named = planted(bench, "named")
    data = json.dumps([module, None, [], {}]).encode()
    plant(bench.redis, named.shard_id(0), "data", zlib.compress(data))
    bench.redis.lpush(f"rq:queue:{QUEUE}", trap, "../x")
    for name in SORTED_SETS:
        bench.redis.zadd(f"rq:{name}:{QUEUE}", {trap: 1})
    few = SamplingParams.of(max_tokens=2)
    good = bench.enqueue(rows=2, shard_size=1, say="good", sampling=few)
    words = ["worker", "--burst", "--model", MODEL, "--max-num-seqs", "8", "-u", bench.url]
    command = [sys.executable, "-m", "worker.cli", *words, "--output-root", str(bench.folder)]

    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert ran.returncode == 0, ran.stderr
    assert run_status(bench.redis, good.run_id).is_finished
    assert verify(Path(good.out)).complete
    status = subprocess.run(
        [sys.executable, "-m", "worker.cli", "status", "-u", bench.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert good.run_id in status.stdout
    assert not sprung.exists()
