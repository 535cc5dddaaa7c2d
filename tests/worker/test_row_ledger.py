"""Rows last as they end: an heir goes on in the middle of a shard, and errors are tried again."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from rq.job import JobStatus

from jobs.dataset import Dataset, verify
from jobs.errors import DatasetError, InputFileError, RunStateError
from jobs.ledger import Counts, Ledger, ShardLease
from jobs.producer import resume_run
from jobs.result_row import ResultRow
from jobs.retry import retry_errors
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import DoubleEngine, echo, wait_for
from vllm_mlx.errors import EngineError, InvalidRequestError, NonFiniteLogitsError
from vllm_mlx.outputs import GenerationOutput
from worker.flights import shard_flight
from worker.flights.shard_rows import ShardRows
from worker.status.status import run_status


def rows_of(spec: RunSpec) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pads.dataset(Path(spec.out) / "data").to_table().to_pylist()
    return sorted(rows, key=lambda row: int(str(row["row"])))


class Moody:
    """Answers, but fails at some prompts, each so many times."""

    def __init__(self, error: Exception | None = None, **failures: int) -> None:
        self.left = {f"prompt {name.removeprefix('n')}": count for name, count in failures.items()}
        self.error = error or EngineError("a step failed")

    def __call__(self, prompt: str) -> GenerationOutput:
        if self.left.get(prompt, 0):
            self.left[prompt] -= 1
            raise self.error
        return echo(prompt)


def test_an_heir_goes_on_in_the_middle_of_a_shard(bench: Bench) -> None:
    spec = bench.enqueue(rows=8, shard_size=8)
    engine = DoubleEngine(held=True)
    dying = bench.worker(engine, name="dying")
    dying.admit(wait=False)
    engine.answer(5)
    dying.settle()
    heir_engine = DoubleEngine()
    heir = bench.worker(heir_engine, name="heir")
    assert run_status(bench.redis, spec.run_id).rows_done == 5

    bench.take_over(heir)
    bench.finish(spec, heir)

    assert heir_engine.prompts == ["prompt 5", "prompt 6", "prompt 7"]
    rows = rows_of(spec)
    assert [row["worker"] for row in rows] == ["dying"] * 5 + ["heir"] * 3
    assert [row["attempts"] for row in rows] == [1] * 5 + [2] * 3
    assert verify(Path(spec.out)).complete
    assert bench.redis.keys(f"mlx-batch:run:{spec.run_id}:rows:*") == []


def test_a_worker_that_is_told_its_shard_is_taken_drops_it(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=4)
    engine = DoubleEngine(held=True)
    sleeper = bench.worker(engine, name="sleeper")
    sleeper.admit(wait=False)
    heir = bench.worker(DoubleEngine(held=True), name="heir")
    bench.take_over(heir)
    heir.admit(wait=False)

    engine.answer(1)
    sleeper.settle()

    assert sleeper.flights == {}
    assert engine.open == [], "the rows are cancelled"
    assert bench.status(spec, 0) == "started"


def test_a_shard_whose_workers_all_die_ends_in_error_rows(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    for _ in range(shard_flight.MAX_IDLE_CLAIMS):
        bench.worker(DoubleEngine(held=True)).admit(wait=False)
        bench.take_over(bench.worker(DoubleEngine()))

    bench.finish(spec, bench.worker(DoubleEngine()))

    assert [row["error_type"] for row in rows_of(spec)] == ["WorkerKilled"] * 2
    assert [row["id"] for row in rows_of(spec)] == ["r0", "r1"], "no engine was asked for them"
    assert verify(Path(spec.out)).complete


def test_a_row_at_which_the_engine_fails_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_flight, "ROW_BACKOFF", (0.01, 0.02))
    spec = bench.enqueue(rows=4, shard_size=4)

    bench.burst(DoubleEngine(say=Moody(n1=2, n2=99)))

    rows = rows_of(spec)
    assert [row["error_type"] for row in rows] == [None, None, "EngineError", None]
    assert [row["attempts"] for row in rows] == [1, 3, 3, 1]


def test_a_row_whose_numbers_are_not_finite_is_not(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)

    bench.burst(DoubleEngine(say=Moody(NonFiniteLogitsError("NaN"), n1=1)))

    assert [row["error_type"] for row in rows_of(spec)] == [None, "NonFiniteLogitsError"]


def test_retry_runs_error_rows_again_and_only_those(bench: Bench) -> None:
    spec = bench.enqueue(rows=9, shard_size=3)
    bench.burst(DoubleEngine(say=Moody(NonFiniteLogitsError("NaN"), n1=1, n7=1)))
    before = rows_of(spec)

    with pytest.raises(InvalidRequestError, match=r"'MediaError'; .* NonFiniteLogitsError \(\d\)"):
        retry_errors(bench.redis, spec.run_id, error_type="MediaError")
    retried, enqueued = retry_errors(bench.redis, spec.run_id, error_type="NonFiniteLogitsError")
    assert retried == 2
    assert enqueued.shards == 2
    assert not (Path(spec.out) / "_SUCCESS").exists()
    assert run_status(bench.redis, spec.run_id).rows_done == 7
    with pytest.raises(RunStateError, match="has not ended"):
        retry_errors(bench.redis, spec.run_id)
    engine = DoubleEngine()
    bench.burst(engine)

    assert engine.prompts == ["prompt 1", "prompt 7"]
    found = verify(Path(spec.out))
    assert (found.complete, found.ok, found.error) == (True, 9, 0)
    after = rows_of(spec)
    assert [row for row in after if row["row"] not in (1, 7)] == [
        row for row in before if row["row"] not in (1, 7)
    ]
    assert [row["attempts"] for row in after if row["row"] in (1, 7)] == [2, 2]
    assert (Path(spec.out) / "_SUCCESS").exists()


def test_retry_waits_for_a_finalize_job_that_comes_back(bench: Bench) -> None:
    """Its worker died after it had marked the run as finished and before RQ knew."""
    spec = bench.enqueue(rows=2, shard_size=2)
    bench.burst(DoubleEngine(say=Moody(NonFiniteLogitsError("NaN"), n1=1)))
    bench.job(spec).set_status(JobStatus.STARTED)

    with pytest.raises(RunStateError, match="has not ended"):
        retry_errors(bench.redis, spec.run_id)


def test_retry_refuses_a_part_that_no_worker_writes(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    bench.burst(DoubleEngine(say=Moody(NonFiniteLogitsError("NaN"), n1=1)))
    part = Dataset(Path(spec.out)).layout.part(0, 1)
    table = pq.read_table(part)
    at = table.schema.names.index("text")
    pq.write_table(table.set_column(at, table.field("text"), [[None, ""]]), part)

    with pytest.raises(DatasetError, match=r"00001\.parquet .* no ResultRow: output\.text"):
        retry_errors(bench.redis, spec.run_id)

    assert (Path(spec.out) / "_SUCCESS").exists()
    assert Ledger(bench.redis).done_shards(spec.run_id) == {0}


def test_retry_says_so_if_there_is_nothing_to_do(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    bench.burst(DoubleEngine())

    said = cli("retry", spec.run_id, "--errors", "-u", bench.url)

    assert (said.exit_code, said.stderr) == (
        0,
        "0 rows to be tried again\n2 rows; 0 of 1 shard enqueued, 1 done\n",
    )
    assert cli("retry", spec.run_id, "-u", bench.url).exit_code == 2


def test_resume_enqueues_what_is_missing(bench: Bench) -> None:
    spec = bench.enqueue(rows=6, shard_size=2)
    bench.burst(DoubleEngine())
    (Path(spec.out) / "data" / "train-00001-of-00003.parquet").unlink()

    said = cli("resume", spec.run_id, "-u", bench.url)

    assert said.stdout.strip().splitlines()[-1] == spec.run_id
    assert "1 of 3 shards enqueued" in said.stderr
    engine = DoubleEngine()
    bench.burst(engine)
    assert engine.prompts == ["prompt 2", "prompt 3"]
    assert verify(Path(spec.out)).complete


def test_resume_refuses_another_input(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    Path(spec.input.path).write_text('{"prompt": "another"}\n')

    with pytest.raises(InputFileError) as refused:
        resume_run(bench.redis, spec.run_id)

    assert spec.input.fingerprint in str(refused.value)
    assert str(refused.value).count("sha256:") == 2


def test_tail_shows_rows_as_they_come(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=2)
    said: list[str] = []

    def watch() -> None:
        said.append(cli("tail", spec.run_id, "-u", bench.url, "--json").stdout)

    watcher = threading.Thread(target=watch)
    watcher.start()
    channel = f"mlx-batch:run:{spec.run_id}:recorded"
    wait_for(lambda: bench.redis.pubsub_numsub(channel)[0][1])
    bench.burst(DoubleEngine())
    watcher.join(timeout=20)

    (output,) = said
    rows = [json.loads(line) for line in output.splitlines()]
    texts = {row["id"]: row["text"] for row in rows}
    assert texts == {f"r{n}": f"echo prompt {n}" for n in range(4)}


def test_a_row_that_fails_to_be_asked_again_ends_its_shard(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_flight, "ROW_BACKOFF", (0.0,))
    spec = bench.enqueue(rows=1, shard_size=1)
    worker = bench.worker(DoubleEngine(say=Moody(n0=1)))
    worker.admit(wait=False)
    worker.settle()

    def broken(*_: object) -> None:
        raise ValueError("no request any more")

    monkeypatch.setattr(ShardRows, "requests", broken)
    worker.tend()
    worker.settle()

    assert bench.status(spec, 0) == "finished"


def test_a_recorded_row_of_another_place_is_generated(bench: Bench) -> None:
    spec = bench.enqueue(rows=3, shard_size=3)
    lease = ShardLease.claim(bench.redis, spec.run_id, 0)
    assert lease
    rows = {at: ResultRow(f"r{row}", row, echo(f"prompt {row}")) for at, row in ((0, 0), (1, 2))}
    lease.record(rows, Counts(2))
    engine = DoubleEngine()

    bench.burst(engine)

    assert engine.prompts == ["prompt 1", "prompt 2"]
    assert verify(Path(spec.out)).complete
