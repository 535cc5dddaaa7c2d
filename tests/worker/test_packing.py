"""Rows of many jobs side by side in one engine, each job with an execution and an end of its own.

The engine is the double of `tests.helpers.engines`, since the states looked at must be held.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import CancelledError, Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest
from redis import Redis

from jobs.dataset import Dataset, verify
from jobs.ledger import Counts, Ledger, RunState
from jobs.producer import enqueue_run
from jobs.queue.run_jobs import open_queue
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.engines import (
    MODEL,
    DoubleEngine,
    echo,
    job_of,
    status_of,
    wait_for,
    write_prompts,
)
from vllm_mlx.errors import ContextLengthError
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingParams


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def rows_of(spec: RunSpec) -> list[dict[str, Any]]:
    table = pyarrow.dataset.dataset(f"{spec.out}/data", format="parquet").to_table()
    return sorted(table.to_pylist(), key=lambda row: row["row"])


def statuses(redis: Redis, spec: RunSpec) -> list[str]:
    return [status_of(redis, spec, shard) for shard in range(spec.shards)]


def test_a_lone_worker_holds_as_much_as_its_engine_orders_at_a_time(bench: Bench) -> None:
    spec = bench.enqueue(rows=30, shard_size=3)
    engine = DoubleEngine(max_num_seqs=4, held=True)

    bench.worker(engine).admit(wait=False)

    assert len(engine.open) == 21, "one batch that runs and a window of four"
    assert statuses(bench.redis, spec) == ["started"] * 7 + ["queued"] * 3


def test_nobody_holds_more_than_two_batches_when_another_would_go_short(bench: Bench) -> None:
    bench.enqueue(rows=30, shard_size=3)
    first, second = (DoubleEngine(max_num_seqs=4, held=True) for _ in range(2))
    workers = [bench.worker(first, name="first"), bench.worker(second, name="second")]

    workers[0].admit(wait=False)
    assert len(first.open) == 18, "six jobs; four wait, fewer than the other might take"

    workers[1].admit(wait=False)
    assert len(second.open) == 9, "two batches, as many as are never too many"


@pytest.mark.usefixtures("two_batches")
def test_jobs_are_taken_until_two_batches_of_rows_are_held(bench: Bench) -> None:
    spec = bench.enqueue(rows=15, shard_size=3)
    engine = DoubleEngine(max_num_seqs=4, held=True)
    worker = bench.worker(engine)

    worker.admit(wait=False)

    assert len(engine.open) == 9, "the third job fills the 8 places"
    assert statuses(bench.redis, spec) == ["started"] * 3 + ["queued"] * 2

    worker.admit(wait=False)
    assert len(engine.open) == 9, "no room, no job"

    engine.answer(2)
    worker.settle()
    worker.admit(wait=False)

    assert len(engine.open) == 10
    assert statuses(bench.redis, spec) == ["started"] * 4 + ["queued"]


@pytest.mark.usefixtures("two_batches")
def test_the_tail_of_one_job_runs_beside_the_head_of_the_next(bench: Bench) -> None:
    spec = bench.enqueue(rows=16, shard_size=8)
    engine = DoubleEngine(max_num_seqs=4, held=True)
    worker = bench.worker(engine)
    worker.admit(wait=False)
    assert statuses(bench.redis, spec) == ["started", "queued"]

    engine.answer(7)
    worker.settle()
    worker.admit(wait=False)

    assert [row.prompt for row in engine.open] == [f"prompt {n}" for n in range(7, 16)]
    assert statuses(bench.redis, spec) == ["started", "started"]


def test_rows_of_several_runs_share_the_batch(bench: Bench) -> None:
    ours = bench.enqueue(rows=2, shard_size=2, say="ours")
    theirs = bench.enqueue(rows=2, shard_size=2, say="theirs")
    engine = DoubleEngine(max_num_seqs=4, held=True)
    worker = bench.worker(engine)

    worker.admit(wait=False)
    assert engine.prompts == ["ours 0", "ours 1", "theirs 0", "theirs 1"]

    engine.answer()
    worker.settle()
    assert [row["text"] for row in rows_of(ours)] == ["echo ours 0", "echo ours 1"]
    assert [row["text"] for row in rows_of(theirs)] == ["echo theirs 0", "echo theirs 1"]


def test_every_job_in_flight_has_one_execution(bench: Bench) -> None:
    spec = bench.enqueue(rows=6, shard_size=2)
    engine = DoubleEngine(held=True)
    worker = bench.worker(engine)
    worker.admit(wait=False)

    registry = open_queue(bench.redis, spec.queue).started_job_registry
    ids = [spec.shard_id(shard) for shard in range(3)]
    assert sorted(job_id for job_id, _ in registry.get_job_and_execution_ids()) == ids
    assert sorted(execution.job_id for execution in worker.bookkeeper.executions.values()) == ids
    assert worker.bookkeeper.current_execution_count == 3
    assert worker.bookkeeper.get_state() == "busy"

    engine.answer(of="prompt 2")
    engine.answer(of="prompt 3")
    worker.settle()

    assert sorted(job_id for job_id, _ in registry.get_job_and_execution_ids()) == [ids[0], ids[2]]
    assert worker.bookkeeper.current_execution_count == 2
    assert worker.bookkeeper.get_state() == "busy"


def test_a_shard_is_committed_when_its_last_row_is_in(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=2)
    engine = DoubleEngine(held=True)
    worker = bench.worker(engine)
    worker.admit(wait=False)

    engine.answer(3)
    worker.settle()

    ledger = Ledger(bench.redis)
    assert ledger.done_shards(spec.run_id) == {0}
    assert ledger.progress(spec.run_id).done == Counts(2, 0, 6, 4)
    assert Dataset(Path(spec.out)).layout.part(0, 2).exists()
    assert not Dataset(Path(spec.out)).layout.part(1, 2).exists()
    assert statuses(bench.redis, spec) == ["finished", "started"]
    assert not bench.redis.exists(f"rq:results:{spec.shard_id(0)}"), "the ledger has it"
    assert worker.bookkeeper.successful_job_count == 1


def test_a_run_ends_with_a_verified_dataset(bench: Bench) -> None:
    begun = now()
    spec = bench.enqueue(rows=5, shard_size=2)
    worker = bench.worker(DoubleEngine())

    def finished() -> bool:
        worker.admit(wait=False)
        worker.settle()
        return bench.status(spec) == "finished"

    wait_for(finished)

    assert (Path(spec.out) / "_SUCCESS").read_bytes() == b""
    assert verify(Path(spec.out)).complete
    assert Ledger(bench.redis).progress(spec.run_id).state is RunState.FINISHED
    assert worker.bookkeeper.get_state() == "idle"
    assert worker.bookkeeper.name in {row["worker"] for row in rows_of(spec)}
    assert all(begun <= row["finished_at"] <= now() for row in rows_of(spec))
    assert [row["id"] for row in rows_of(spec)] == ["r0", "r1", "r2", "r3", "r4"]


@pytest.mark.parametrize(
    "error",
    [
        ContextLengthError("the prompt has 9000 tokens"),
        RuntimeError("the model broke"),
        ZeroDivisionError(),
        CancelledError("by the engine"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_row_that_fails_is_an_error_row_and_its_neighbours_do_not_notice(
    bench: Bench, error: BaseException
) -> None:
    def say(prompt: str) -> GenerationOutput:
        if prompt == "prompt 1":
            raise error
        return echo(prompt)

    spec = bench.enqueue(rows=3, shard_size=3)
    worker = bench.worker(DoubleEngine(say=say))
    worker.admit(wait=False)
    worker.settle()

    good, bad, other = rows_of(spec)
    assert (bad["id"], bad["finish_reason"], bad["text"]) == ("r1", "error", "")
    assert (bad["error_type"], bad["error"]) == (type(error).__name__, str(error))
    assert [good["text"], other["text"]] == ["echo prompt 0", "echo prompt 2"]
    assert good["error_type"] is other["error"] is None
    types = {type(error).__name__: 1}
    assert Ledger(bench.redis).progress(spec.run_id).done == Counts(2, 1, 6, 4, error_types=types)


class RefusingEngine(DoubleEngine):
    """Answers with an error at once, as the real engine does when a prompt is too long."""

    def ask(self, prompt: Any, params: SamplingParams) -> Any:
        if "too long" not in str(prompt):
            return super().ask(prompt, params)
        refused: Future[GenerationOutput] = Future()
        refused.set_exception(ContextLengthError("too long for the context"))
        return refused


def test_a_row_that_the_engine_refuses_is_an_error_row(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2, say="too long")
    worker = bench.worker(RefusingEngine())
    worker.admit(wait=False)
    worker.settle()

    assert [row["error_type"] for row in rows_of(spec)] == ["ContextLengthError"] * 2


@pytest.mark.usefixtures("two_batches")
def test_jobs_that_need_no_engine_do_not_pile_up(bench: Bench) -> None:
    """Rows that fail as they are submitted never fill the engine, yet the loop must turn."""
    bench.enqueue(rows=40, shard_size=1, say="too long")
    worker = bench.worker(RefusingEngine(max_num_seqs=4))

    worker.admit(wait=False)

    assert len(worker.flights) <= 8


def test_bad_rows_of_the_input_become_error_rows(bench: Bench) -> None:
    prompts = bench.folder / "prompts.jsonl"
    lines = [
        '{"id": "a", "prompt": "fine"}',
        "{not json",
        '{"id": "a", "prompt": "again"}',
        '{"id": "d", "prompt": "hot", "temperature": 9}',
    ]
    prompts.write_text("\n".join(lines) + "\n")
    out = bench.folder / "out"
    enqueued = enqueue_run(bench.redis, prompts, model=MODEL, out=out, skip_bad_rows=True)
    engine = DoubleEngine()
    worker = bench.worker(engine)
    worker.admit(wait=False)
    worker.settle()

    assert engine.prompts == ["fine"]
    rows = rows_of(enqueued.spec)
    assert [row["id"] for row in rows] == ["a", "1", "2", "d"]
    assert [row["finish_reason"] for row in rows] == ["stop", "error", "error", "error"]
    assert {row["error_type"] for row in rows[1:]} == {"InvalidRequestError"}
    assert "temperature=9" in rows[3]["error"]


def test_a_job_that_is_queued_twice_runs_once(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    queue = open_queue(bench.redis, spec.queue)
    queue.push_job_id(spec.shard_id(0))
    engine = DoubleEngine(held=True)
    worker = bench.worker(engine)

    worker.admit(wait=False)

    assert engine.prompts == ["prompt 0", "prompt 1"]
    assert (queue.count, queue.intermediate_queue.get_job_ids()) == (0, [])
    assert worker.bookkeeper.current_execution_count == 1

    engine.answer()
    worker.settle()
    assert statuses(bench.redis, spec) == ["finished"]


def enqueue_again(redis: Redis, spec: RunSpec, shard: int) -> None:
    """As when the worker that had the job was taken for dead."""
    queue = open_queue(redis, spec.queue)
    queue._enqueue_job(job_of(redis, spec, shard))


def test_a_committed_shard_is_not_run_again(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=2)
    engine = DoubleEngine(held=True)
    worker = bench.worker(engine)
    worker.admit(wait=False)
    engine.answer(2)
    worker.settle()
    part = Dataset(Path(spec.out)).layout.part(0, 2)
    written = part.stat().st_mtime_ns

    enqueue_again(bench.redis, spec, 0)
    bench.be_due(worker)
    worker.admit(wait=False)

    assert len(engine.asked) == 4, "no row was asked again"
    assert part.stat().st_mtime_ns == written
    assert statuses(bench.redis, spec) == ["finished", "started"]
    assert Ledger(bench.redis).progress(spec.run_id).done == Counts(2, 0, 6, 4)


def test_a_run_whose_worker_died_after_its_last_commit_is_finalized(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard is in the ledger, but RQ was not told, so nothing was released."""
    spec = bench.enqueue(rows=2, shard_size=2)
    dying = bench.worker(DoubleEngine())
    monkeypatch.setattr(dying.bookkeeper, "handle_job_success", lambda *_, **__: sys.exit("killed"))
    dying.admit(wait=False)
    with pytest.raises(SystemExit):
        dying.settle()
    dying.flights.clear()
    dying.bookkeeper.executions.clear()
    assert bench.status(spec) == "deferred"

    enqueue_again(bench.redis, spec, 0)
    engine = DoubleEngine()
    bench.worker(engine).admit(wait=False)

    assert bench.status(spec, 0) == "finished"
    assert bench.status(spec) in ("queued", "started")
    assert engine.asked == []


def test_rows_reach_the_engine_with_their_own_sampling(bench: Bench) -> None:
    prompts = bench.folder / "prompts.jsonl"
    rows: list[dict[str, Any]] = [
        {"prompt": "default"},
        {"prompt": "greedy", "temperature": 0},
        {"prompt": "short", "max_tokens": 3, "stop": "."},
        {"messages": [{"role": "user", "content": "chat"}], "seed": 7},
    ]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sampling = SamplingParams.of(max_tokens=99, top_p=0.5)
    enqueue_run(bench.redis, prompts, model=MODEL, out=bench.folder / "out", sampling=sampling)
    engine = DoubleEngine()
    bench.worker(engine).admit(wait=False)

    default, greedy, short, chat = [row.params for row in engine.asked]
    assert (default.max_tokens, default.top_p, default.temperature) == (99, 0.5, 0.7)
    assert (greedy.temperature, greedy.seed) == (0, None)
    assert (short.max_tokens, short.stop) == (3, (".",))
    assert chat.seed == 7
    assert default.seed is not None
    assert short.seed is not None
    assert default.seed != short.seed
    assert engine.prompts[3] == [{"role": "user", "content": "chat"}]


def test_plain_prompts_go_through_the_chat_template_on_request(bench: Bench) -> None:
    bench.enqueue(rows=1, shard_size=1, chat=True)
    engine = DoubleEngine()
    bench.worker(engine).admit(wait=False)

    assert engine.prompts == [[{"role": "user", "content": "prompt 0"}]]


def test_input_columns_are_carried_to_the_dataset(bench: Bench) -> None:
    prompts = write_prompts(bench.folder / "p.jsonl", 2, topic="owls", weights=[1, 2])
    spec = enqueue_run(bench.redis, prompts, model=MODEL, out=bench.folder / "out").spec
    worker = bench.worker(DoubleEngine())
    worker.admit(wait=False)
    worker.settle()

    assert [row["prompt"] for row in rows_of(spec)] == ["prompt 0", "prompt 1"]
    assert {row["topic"] for row in rows_of(spec)} == {"owls"}
    assert [row["weights"] for row in rows_of(spec)] == [[1, 2]] * 2
