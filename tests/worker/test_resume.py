"""Runs that go on, are made new, or may not begin."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from redis import Redis
from rq.job import JobStatus

from jobs.connection import connect
from jobs.dataset import verify
from jobs.errors import RunExistsError, RunNotFoundError
from jobs.ledger import Ledger, RunState
from jobs.producer import enqueue_run, forget_run
from jobs.queue.run_jobs import RETRY, open_queue
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.engines import MODEL, DoubleEngine
from vllm_mlx.errors import EngineStoppedError
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from worker.cli.app import main


def resume(redis: Redis, spec: RunSpec, **options: Any) -> int:
    path = Path(spec.input.path)
    given = {"model": MODEL, "out": spec.out, "shard_size": spec.shard_size}
    return enqueue_run(redis, path, **given, **options, resume=True).shards


@pytest.fixture
def finished(bench: Bench) -> RunSpec:
    spec = bench.enqueue(rows=6, shard_size=2)
    bench.burst(DoubleEngine())
    assert verify(Path(spec.out)).complete
    return spec


def test_a_finished_run_has_nothing_to_resume(redis: Redis, finished: RunSpec) -> None:
    assert resume(redis, finished) == 0


@pytest.mark.parametrize("marked", [False, True], ids=["unmarked", "still marked as finished"])
def test_a_lost_part_is_made_again_and_only_it(
    bench: Bench, finished: RunSpec, marked: bool
) -> None:
    out = Path(finished.out)
    (out / "data" / "train-00001-of-00003.parquet").unlink()
    if not marked:
        (out / "_SUCCESS").unlink()

    assert resume(bench.redis, finished) == 1
    assert Ledger(bench.redis).progress(finished.run_id).state is RunState.RUNNING
    engine = DoubleEngine()
    bench.burst(engine)

    assert engine.prompts == ["prompt 2", "prompt 3"]
    assert verify(out).complete
    assert (out / "_SUCCESS").exists()
    progress = Ledger(bench.redis).progress(finished.run_id)
    assert (progress.state, progress.done.rows) == (RunState.FINISHED, 6)


def test_a_run_is_refused_again_until_it_is_forgotten(bench: Bench, finished: RunSpec) -> None:
    shutil.rmtree(finished.out)
    with pytest.raises(RunExistsError, match=f"mlx-batch forget {finished.out}"):
        bench.enqueue(rows=6, shard_size=2)

    told = CliRunner().invoke(main, ["forget", finished.run_id, "-u", bench.url])

    assert told.exit_code == 0, told.output
    assert open_queue(bench.redis, finished.queue).finished_job_registry.get_job_count() == 0
    again = bench.enqueue(rows=6, shard_size=2)
    assert again.run_id == finished.run_id
    bench.burst(DoubleEngine())
    assert verify(Path(again.out)).complete


def test_forgetting_an_unknown_run_says_so(redis: Redis) -> None:
    with pytest.raises(RunNotFoundError, match="run-nope"):
        forget_run(redis, "run-nope")


def test_a_folder_belongs_to_one_run_before_any_worker_has_seen_it(bench: Bench) -> None:
    first = bench.enqueue(rows=2, shard_size=2)
    with pytest.raises(RunExistsError, match=first.run_id):
        bench.enqueue(rows=3, shard_size=2)
    assert open_queue(bench.redis, first.queue).count == 1
    assert Ledger(bench.redis).runs() == [first.run_id]


@pytest.mark.parametrize("held", [False, True], ids=["while submitting", "while answering"])
def test_an_engine_that_ends_is_no_row_s_error(bench: Bench, held: bool) -> None:
    """Its jobs go back, first in the queue and with no retry spent."""

    class EndingEngine(DoubleEngine):
        def ask(self, prompt: Any, params: SamplingParams) -> Future[GenerationOutput]:
            if not held:
                raise EngineStoppedError("the thread has ended")
            future = super().ask(prompt, params)
            future.set_exception(EngineStoppedError("the thread has ended"))
            return future

    spec = bench.enqueue(rows=2, shard_size=2)

    with pytest.raises(EngineStoppedError):
        bench.burst(EndingEngine(held=held))

    job = bench.job(spec, 0)
    assert (job.get_status(), job.retries_left) == (JobStatus.QUEUED, RETRY.max)
    bench.burst(DoubleEngine())
    assert verify(Path(spec.out)).ok == 2


def cli_verify(spec: RunSpec) -> Any:
    return CliRunner().invoke(main, ["verify", spec.out])


def test_verify_accepts_what_is_whole(finished: RunSpec) -> None:
    told = cli_verify(finished)
    assert told.exit_code == 0
    assert "6 rows in = 6 ok + 0 error" in told.output


def test_verify_misses_the_mark_of_the_end(finished: RunSpec) -> None:
    (Path(finished.out) / "_SUCCESS").unlink()
    told = cli_verify(finished)
    assert told.exit_code == 7
    assert "_SUCCESS" in told.output


def test_verify_finds_one_flipped_byte_of_a_text(finished: RunSpec) -> None:
    part = Path(finished.out) / "data" / "train-00000-of-00003.parquet"
    column = pq.ParquetFile(part).metadata.row_group(0).column(3)
    assert column.path_in_schema == "text"
    content = bytearray(part.read_bytes())
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 0xFF
    part.write_bytes(content)

    told = cli_verify(finished)

    assert told.exit_code == 7
    assert part.name in told.output


def test_a_part_is_what_the_manifest_says(finished: RunSpec) -> None:
    manifest = json.loads((Path(finished.out) / "_job" / "manifest.json").read_text())
    assert manifest["run_id"] == finished.run_id
    assert manifest["input"]["fingerprint"] == finished.input.fingerprint
    assert manifest["versions"]["mlx-batch"]
    part = pq.read_table(Path(finished.out) / "data" / "train-00000-of-00003.parquet")
    assert pa.types.is_string(part.schema.field("error").type)


def test_two_servers_do_not_know_each_other(redis_url: str, finished: RunSpec) -> None:
    """The folder itself tells a server that never heard of the run."""
    with connect(redis_url) as connection:
        connection.flushall()
        with pytest.raises(RunExistsError, match="finished"):
            enqueue_run(
                connection, finished.input.path, model=MODEL, out=finished.out, shard_size=2
            )


@pytest.mark.parametrize("status", list(JobStatus))
def test_a_job_that_stands_nowhere_is_enqueued_again_whatever_it_says(
    bench: Bench, status: JobStatus
) -> None:
    """Its entry in the queue was lost: nobody would ever take it."""
    spec = bench.enqueue(rows=4, shard_size=2)
    bench.redis.lrem(open_queue(bench.redis, spec.queue).key, 0, spec.shard_id(1))
    bench.job(spec, 1).set_status(status)

    assert resume(bench.redis, spec) == 1

    bench.burst(DoubleEngine())
    assert verify(Path(spec.out)).complete


def test_a_job_in_flight_is_left_alone(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=2)
    bench.worker(DoubleEngine(held=True)).admit(wait=False)

    assert resume(bench.redis, spec) == 0
