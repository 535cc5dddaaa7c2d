"""Runs that are halted: no more rows begin, those under way end, and all of it goes on later."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.dataset
import pytest

from jobs.dataset import verify
from jobs.errors import RunNotFoundError, RunStateError
from jobs.ledger import Halting, Ledger, ShardLease, stretch
from jobs.pause import continue_run, pause_run
from jobs.producer import Enqueued, enqueue_run, resume_run
from jobs.retry import retry_errors
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import MODEL, DoubleEngine, echo, wait_for, write_prompts
from tests.helpers.shell import Shell
from vllm_mlx.errors import MediaError
from vllm_mlx.outputs import GenerationOutput
from worker.batch_worker import BatchWorker
from worker.cli.exit_codes import ExitCode
from worker.status.status import run_status


def work(bench: Bench, worker: BatchWorker, engine: DoubleEngine, rows: int = 1) -> None:
    """So many rows a step, until nothing is left to do."""
    bench.step(worker)
    while worker.flights:
        engine.answer(rows)
        bench.step(worker)


def texts(spec: RunSpec) -> list[str]:
    table = pyarrow.dataset.dataset(f"{spec.out}/data", format="parquet").to_table()
    return [row["text"] for row in sorted(table.to_pylist(), key=lambda row: row["row"])]


def test_rows_under_way_end_and_no_others_begin(bench: Bench) -> None:
    spec = bench.enqueue(rows=12, shard_size=4)
    engine = DoubleEngine(max_num_seqs=2, held=True)
    worker = bench.worker(engine)
    bench.step(worker)
    asked = list(engine.asked)

    assert cli("pause", spec.run_id, "-u", bench.url).exit_code == 0
    bench.step(worker)

    assert [row.future.cancelled() for row in asked] == [False] * 2 + [True] * (len(asked) - 2)
    assert run_status(bench.redis, spec.run_id).standing == "paused"
    assert not run_status(bench.redis, spec.run_id).is_over
    engine.answer()
    bench.step(worker)
    bench.step(worker)

    status = run_status(bench.redis, spec.run_id)
    assert status.is_over
    assert (status.rows_done, status.shards["deferred"]) == (2, 3)
    assert not worker.flights
    assert len(engine.asked) == len(asked)
    # Not one of its claims was idle: it was halted in order.
    lease = ShardLease.claim(bench.redis, spec.run_id, 0)
    assert lease is not None
    assert (lease.idle, len(lease.known)) == (1, 2)

    told = cli("continue", spec.run_id, "-u", bench.url)
    assert "3 shards" in told.stderr
    bench.burst(DoubleEngine())
    assert texts(spec) == [f"echo prompt {row}" for row in range(12)]
    assert verify(Path(spec.out)).complete
    assert run_status(bench.redis, spec.run_id).standing == "finished"


def test_a_run_that_goes_on_at_once_goes_on_in_its_worker(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=4)
    engine = DoubleEngine(max_num_seqs=1, held=True)
    worker = bench.worker(engine)
    bench.step(worker)
    pause_run(bench.redis, spec.run_id)
    bench.step(worker)
    assert len(engine.open) == 1

    assert continue_run(bench.redis, spec.run_id).shards == 0
    bench.step(worker)

    assert len(engine.open) == 4
    engine.answer()
    bench.finish(spec, worker)
    assert engine.prompts.count("prompt 0") == 1
    assert verify(Path(spec.out)).complete


def test_another_run_of_the_queue_goes_on(bench: Bench) -> None:
    paused = bench.enqueue(rows=8, shard_size=1, say="paused")
    other = bench.enqueue(rows=2, shard_size=1, say="other")
    pause_run(bench.redis, paused.run_id)

    engine = DoubleEngine()
    bench.burst(engine)

    assert engine.prompts == ["other 0", "other 1"]
    assert verify(Path(other.out)).complete
    assert run_status(bench.redis, paused.run_id).shards["deferred"] == 8
    assert resume_run(bench.redis, paused.run_id).shards == 8
    bench.burst(engine)
    assert verify(Path(paused.out)).complete


def test_the_jobs_of_a_killed_worker_are_put_aside_by_another(bench: Bench) -> None:
    spec = bench.enqueue(rows=8, shard_size=4)
    bench.process("held", until=lambda: run_status(bench.redis, spec.run_id).shards["started"])
    bench._processes[0].kill()
    pause_run(bench.redis, spec.run_id)
    engine = DoubleEngine()
    heir = bench.worker(engine)

    bench.take_over(heir)

    def are_aside() -> bool:
        bench.step(heir)
        return run_status(bench.redis, spec.run_id).shards["deferred"] == 2

    wait_for(are_aside)
    assert engine.asked == []
    assert continue_run(bench.redis, spec.run_id).shards == 2
    bench.finish(spec, heir)
    assert verify(Path(spec.out)).complete


def test_what_was_cut_off_between_two_steps_is_continued_again(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=1)
    pause_run(bench.redis, spec.run_id)
    bench.burst(DoubleEngine())
    Halting(bench.redis).take_up(spec)  # and whoever asked for it was killed here

    assert continue_run(bench.redis, spec.run_id).shards == 2


def test_what_can_not_be_paused_or_continued_says_so(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)
    assert continue_run(bench.redis, spec.run_id).shards == 0, "it was not halted, and is queued"
    told = cli("continue", spec.run_id, "-u", bench.url)
    assert "0 of 1 shard enqueued, 1 on the way already" in told.stderr
    bench.redis.delete(f"rq:job:{spec.shard_id(0)}")
    assert continue_run(bench.redis, spec.run_id).shards == 1, "it was lost"
    pause_run(bench.redis, spec.run_id)
    with pytest.raises(RunStateError, match="halted already"):
        pause_run(bench.redis, spec.run_id)
    continue_run(bench.redis, spec.run_id)
    bench.burst(DoubleEngine())
    for change in (pause_run, continue_run):
        with pytest.raises(RunStateError, match="finished"):
            change(bench.redis, spec.run_id)
    with pytest.raises(RunNotFoundError):
        pause_run(bench.redis, "run-nowhere")


def fail(prompt: Any) -> GenerationOutput:
    raise MediaError(f"there is no file of {prompt}")


def halted(bench: Bench, spec: RunSpec) -> tuple[str, str]:
    status = run_status(bench.redis, spec.run_id)
    assert (status.standing, status.is_over) == ("halted", True)
    assert status.halt is not None
    return status.halt.reason.value, status.halt.message


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_whose_first_rows_all_fail_alike_is_halted(bench: Bench, workers: int) -> None:
    """After so many, though all that a worker has in hand fail in one moment."""
    spec = bench.enqueue(rows=48, shard_size=24)
    engines = [DoubleEngine(max_num_seqs=12, held=True, say=fail) for _ in range(workers)]
    hands = [bench.worker(engine) for engine in engines]
    for hand in hands:
        hand.tend()  # so that they know of each other
    bench.step(*hands)
    assert [len(engine.open) for engine in engines] == [48 // workers] * workers
    for engine in engines:
        engine.answer(12 if workers == 2 else None)
    bench.step(*hands)
    for engine in engines:
        engine.answer()
    bench.step(*hands)

    reason, message = halted(bench, spec)
    assert reason == "max_errors"
    assert "the first 20 rows all ended in MediaError, such as: r" in message
    status = run_status(bench.redis, spec.run_id)
    assert (status.rows_done, status.rows_error, status.partial.rows) == (20, 20, 20)

    # Those that failed beyond are tried again.
    assert resume_run(bench.redis, spec.run_id).shards == 2
    bench.burst(DoubleEngine())
    assert (verify(Path(spec.out)).ok, verify(Path(spec.out)).error) == (28, 20)


def test_a_run_that_fails_in_its_whole_length_ends(bench: Bench) -> None:
    """With nothing left there is nothing to halt; its exit code says that no row succeeded."""
    spec = bench.enqueue(rows=20, shard_size=8)

    bench.burst(DoubleEngine(say=fail))

    status = run_status(bench.redis, spec.run_id)
    assert (status.standing, status.rows_error, status.halt) == ("finished", 20, None)
    assert retry_errors(bench.redis, spec.run_id)[0] == 20
    bench.burst(DoubleEngine())
    assert verify(Path(spec.out)).ok == 20


@pytest.mark.parametrize(
    ("max_errors", "errors"), [("6", 7), ("10", None), ("30%", 7), ("50%", None)]
)
def test_errors_are_counted(bench: Bench, max_errors: str, errors: int | None) -> None:
    """Of twenty rows ten fail, the last ones, all in one moment."""

    def say(prompt: Any) -> GenerationOutput:
        return echo(prompt) if len(str(prompt)) == len("prompt 0") else fail(prompt)

    spec = bench.enqueue(rows=20, shard_size=20, max_errors=max_errors)
    bench.burst(DoubleEngine(max_num_seqs=20, say=say))

    status = run_status(bench.redis, spec.run_id)
    if errors is None:
        assert (status.standing, status.rows_error) == ("finished", 10)
        return
    reason, message = halted(bench, spec)
    assert reason == "max_errors"
    assert message.startswith(f"{errors} rows are in error, and no more than {max_errors} may be")
    assert (status.partial.ok, status.partial.error) == (10, errors)


def test_bad_rows_that_were_let_through_halt_nothing(bench: Bench) -> None:
    prompts = bench.folder / "bad.jsonl"
    prompts.write_text('{"prompt": ""}\n' * 25 + '{"prompt": "good"}\n')
    words = ["enqueue", prompts, "--model", MODEL, "--out", bench.folder / "out"]
    cli(*words, "--skip-bad-rows", "--max-errors", 0, "--shard-size", 5, "-u", bench.url)

    bench.burst(DoubleEngine())

    assert (verify(bench.folder / "out").ok, verify(bench.folder / "out").error) == (1, 25)


def test_so_many_output_tokens_and_no_more(bench: Bench) -> None:
    spec = bench.enqueue(rows=10, shard_size=2, max_output_tokens=6)
    engine = DoubleEngine(max_num_seqs=1, held=True)  # whose answers have two tokens
    worker = bench.worker(engine)
    work(bench, worker, engine)

    assert halted(bench, spec)[0] == "max_output_tokens"
    # One more had begun when the third was recorded.
    assert run_status(bench.redis, spec.run_id).rows_done == 4
    continue_run(bench.redis, spec.run_id)  # with the same bound, anew
    work(bench, worker, engine)
    assert run_status(bench.redis, spec.run_id).rows_done == 8
    # Without a bound.
    assert enqueue_again(bench, spec).spec.run_id == spec.run_id
    engine._held = False
    bench.finish(spec, worker)
    assert verify(Path(spec.out)).complete


def enqueue_again(bench: Bench, spec: RunSpec, **options: Any) -> Enqueued:
    given = {"model": MODEL, "out": spec.out, "shard_size": spec.shard_size, "resume": True}
    return enqueue_run(bench.redis, spec.input.path, **given, **options)


def test_a_time_that_has_passed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = bench.enqueue(rows=4, shard_size=1, max_time=3600)
    engine = DoubleEngine(max_num_seqs=1, held=True)
    worker = bench.worker(engine)
    bench.step(worker)
    engine.answer(1)
    bench.step(worker)
    assert run_status(bench.redis, spec.run_id).halt is None

    now = time.time()
    monkeypatch.setattr(stretch, "time", SimpleNamespace(time=lambda: now + 3601))
    for _ in range(4):
        bench.step(worker)
        engine.answer(1)

    assert halted(bench, spec) == ("max_time", "3600 s have passed (max_time)")
    assert run_status(bench.redis, spec.run_id).rows_done == 2
    monkeypatch.undo()
    enqueue_again(bench, spec, max_time="2h")
    bench.burst(DoubleEngine())
    assert verify(Path(spec.out)).complete
    assert Ledger(bench.redis).spec(spec.run_id).bounds.max_time == "2h"


def test_no_row_begins_after_the_hour(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    at = datetime.now() + timedelta(minutes=2)
    spec = bench.enqueue(rows=2, shard_size=1, until=f"{at:%H:%M}")
    later = time.time() + 121
    monkeypatch.setattr(stretch, "time", SimpleNamespace(time=lambda: later))
    engine = DoubleEngine()

    bench.burst(engine)

    assert engine.asked == []
    assert halted(bench, spec)[0] == "until"


def test_run_ends_with_a_code_of_its_own_and_goes_on(
    shell: Shell, tmp_path: Path, text_folder: str
) -> None:
    prompts, out = write_prompts(tmp_path / "p.jsonl", 24), tmp_path / "out"
    words = ["run", prompts, "--model", text_folder, "--out", out, "--shard-size", 4]
    words += ["--max-num-seqs", 2, "--max-tokens", 8, "--temperature", 0]

    code, said = shell.run(*words, "--max-output-tokens", 40)

    assert code == ExitCode.HALTED, said
    assert "40 tokens and more were generated (max_output_tokens)" in said
    assert f"go on:         mlx-batch resume {out}\n" in said.replace("\n\n", "\n")
    code, said = shell.run(*words, "--resume")
    assert code == ExitCode.OK, said
    assert verify(out).ok == 24
