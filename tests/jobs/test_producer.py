"""From a prompt file to jobs in Redis: all of it or nothing, each shard once, resumable."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from jobs import preparation, producer
from jobs.bad_rows import BadRows
from jobs.errors import InputFileError, RunExistsError
from jobs.ledger import Counts, Ledger
from jobs.preparation import prepare_run
from jobs.producer import enqueue_run
from jobs.queue.job import BatchJob
from jobs.queue.run_jobs import FAILURE_TTL, JOB_TIMEOUT, RESULT_TTL, RETRY, RunJobs, open_queue
from jobs.queue.tasks import GenerateShard, read_task
from jobs.run_spec import RunSpec
from jobs.sources import SourceRow
from tests.helpers.engines import MODEL, commit_shard, enqueue, job_of, status_of, write_prompts
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.sampling_params import SamplingParams


def payload_of(redis: Redis, spec: RunSpec, shard: int) -> GenerateShard:
    task = read_task(job_of(redis, spec, shard))
    assert isinstance(task, GenerateShard)
    return task


def shard_statuses(redis: Redis, spec: RunSpec) -> list[str]:
    return [status_of(redis, spec, shard) for shard in range(spec.shards)]


def resume(redis: Redis, folder: Path, spec: RunSpec) -> int:
    """Enqueue the same run again with `resume`; how many shards that were."""
    resumed = enqueue_run(
        redis,
        folder / "prompt.jsonl",
        model=spec.model,
        out=spec.out,
        shard_size=spec.shard_size,
        resume=True,
    )
    assert resumed.spec.run_id == spec.run_id
    return resumed.shards


def end(redis: Redis, spec: RunSpec, shard: int, counts: Counts | None) -> None:
    """What a worker does at the end of a shard: commit and finish it, or, without counts, fail."""
    queue = open_queue(redis, spec.queue)
    job = job_of(redis, spec, shard)
    queue.remove(job)
    with redis.pipeline() as pipeline:
        if counts:
            commit_shard(redis, spec.run_id, shard, counts)
            job._handle_success(RESULT_TTL, pipeline)
        else:
            job.set_status("failed", pipeline)
            job._handle_failure("Error: on purpose", pipeline)
        pipeline.execute()
    if counts:
        queue.enqueue_dependents(job)


# What is enqueued.


def test_shards_have_deterministic_ids_and_the_rows_in_order(redis: Redis, tmp_path: Path) -> None:
    spec = enqueue(redis, tmp_path, rows=5, shard_size=2)

    queue = open_queue(redis, spec.queue)
    assert queue.get_job_ids() == [f"{spec.run_id}-0000{shard}" for shard in range(3)]
    rows = [payload_of(redis, spec, shard).rows for shard in range(3)]
    assert [[row.row for row in shard] for shard in rows] == [[0, 1], [2, 3], [4]]
    assert rows[2][0].data == {"id": "r4", "prompt": "prompt 4"}
    assert all(row.error is row.id is None for shard in rows for row in shard)


def write_samples(folder: Path, *counts: int) -> Path:
    """A file of rows with so many samples each."""
    rows = [{"id": f"r{row}", "prompt": f"prompt {row}", "n": n} for row, n in enumerate(counts)]
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def samples_of(redis: Redis, spec: RunSpec) -> list[list[tuple[int, int]]]:
    tasks = [payload_of(redis, spec, shard) for shard in range(spec.shards)]
    return [[(row.row, sample) for row, sample in task.samples] for task in tasks]


def test_samples_are_the_rows_of_shards(redis: Redis, tmp_path: Path) -> None:
    path = write_samples(tmp_path, 1, 4, 1, 2)

    spec = enqueue_run(redis, path, model=MODEL, out=tmp_path / "out", shard_size=3).spec

    assert (spec.rows, spec.input_rows, spec.samples, spec.shards) == (8, 4, 4, 3)
    assert samples_of(redis, spec) == [
        [(0, 0), (1, 0), (1, 1)],
        [(1, 2), (1, 3), (2, 0)],
        [(3, 0), (3, 1)],
    ]
    assert [row.row for row in payload_of(redis, spec, 1).rows] == [1, 2], "once a payload"
    assert spec.columns == {"prompt": "string", "n": "int64"}
    assert job_of(redis, spec, 2).description == f"{spec.run_id} rows 6-7 of 8"


def test_rows_that_do_not_say_have_as_many_samples_as_the_run(redis: Redis, tmp_path: Path) -> None:
    spec = enqueue(redis, tmp_path, rows=2, shard_size=128.0, n=3.0)

    assert (spec.n, spec.rows, spec.input_rows, spec.samples) == (3, 6, 2, 3)
    assert samples_of(redis, spec) == [[(row, sample) for row in range(2) for sample in range(3)]]


def test_a_bad_row_has_one_sample(redis: Redis, tmp_path: Path) -> None:
    path = write_samples(tmp_path, 2, 2000, 2)
    options: dict[str, Any] = {"model": MODEL, "out": tmp_path / "out", "n": 2}
    with pytest.raises(InputFileError, match=r"row 1: n=2000: .* 1024"):
        enqueue_run(redis, path, **options)

    spec = enqueue_run(redis, path, skip_bad_rows=True, **options).spec

    assert samples_of(redis, spec) == [[(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]]


def test_equal_samples_are_refused_for_the_runs_temperature_too(
    redis: Redis, tmp_path: Path
) -> None:
    with pytest.raises(InputFileError, match="every sample is the same"):
        enqueue(redis, tmp_path, 1, 1, n=2, sampling=SamplingParams.of(temperature=0.0))


@pytest.mark.parametrize("n", [0, 1025, True, 2.5, "2"])
def test_a_number_of_samples_out_of_range(redis: Redis, tmp_path: Path, n: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"n=.*: should be 1 to 1024"):
        enqueue(redis, tmp_path, 1, 1, n=n)


def test_jobs_carry_their_limits(redis: Redis, tmp_path: Path) -> None:
    spec = enqueue(redis, tmp_path, rows=3, shard_size=2)

    for job in (job_of(redis, spec, 0), job_of(redis, spec)):
        assert (job.timeout, job.result_ttl, job.failure_ttl) == (
            JOB_TIMEOUT,
            RESULT_TTL,
            FAILURE_TTL,
        )
        assert (job.retries_left, job.retry_intervals) == (RETRY.max, RETRY.intervals)
        assert redis.ttl(job.key) == -1
    assert job_of(redis, spec, 1).description == f"{spec.run_id} rows 2-2 of 3"


def test_the_finalize_job_waits_for_every_shard(redis: Redis, tmp_path: Path) -> None:
    spec = enqueue(redis, tmp_path, rows=6, shard_size=2)
    queue = open_queue(redis, spec.queue)

    assert status_of(redis, spec) == "deferred"
    assert queue.deferred_job_registry.get_job_ids() == [spec.finalize_id]
    assert job_of(redis, spec)._dependency_ids == [spec.shard_id(shard) for shard in range(3)]
    for shard in range(3):
        assert job_of(redis, spec, shard).dependent_ids == [spec.finalize_id]

    for shard in (2, 0):
        end(redis, spec, shard, Counts(ok=2))
        assert status_of(redis, spec) == "deferred"
    end(redis, spec, 1, Counts(ok=2))

    assert status_of(redis, spec) == "queued"
    assert queue.get_job_ids() == [spec.finalize_id]
    assert queue.deferred_job_registry.get_job_ids() == []


def test_a_failed_shard_does_not_release_the_finalize_job(redis: Redis, tmp_path: Path) -> None:
    spec = enqueue(redis, tmp_path, rows=4, shard_size=2)
    end(redis, spec, 0, None)
    end(redis, spec, 1, Counts(ok=2))

    assert status_of(redis, spec) == "deferred"


def test_the_run_is_on_record(redis: Redis, tmp_path: Path) -> None:
    sampling = SamplingParams.of(max_tokens=7)
    spec = enqueue(redis, tmp_path, rows=3, shard_size=2, sampling=sampling, chat=True)

    assert Ledger(redis).spec(spec.run_id) == spec
    assert (spec.rows, spec.shards, spec.bad_rows, spec.chat) == (3, 2, 0, True)
    assert spec.sampling == sampling
    assert spec.columns == {"prompt": "string"}
    assert Path(spec.out).is_absolute()


# Bad rows.


def write_bad(path: Path, good: int, bad: int) -> Path:
    rows = [{"id": f"g{n}", "prompt": "fine"} for n in range(good)]
    rows += [{"id": f"b{n}", "prompt": "hot", "temperature": 3} for n in range(bad)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_with_bad_rows_is_refused_whole(redis: Redis, tmp_path: Path) -> None:
    prompts = write_bad(tmp_path / "prompts.jsonl", good=5, bad=25)

    with pytest.raises(InputFileError) as refused:
        enqueue_run(redis, prompts, model=MODEL, out=tmp_path / "out")

    first, told, advice = str(refused.value).splitlines()
    assert first == f"{prompts}: 25 bad rows of 30; nothing was enqueued."
    assert told.startswith("  25 rows: temperature=3: ")
    assert told.endswith(", lines 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 and 15 more")
    assert "--skip-bad-rows" in advice
    assert redis.keys("*") == []
    assert not (tmp_path / "out").exists()


def test_bad_rows_are_told_by_kind_whatever_their_values(redis: Redis, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    wrong: list[dict[str, object]] = [{"temperature": 3}, {"top_p": 0}, {"temperature": 2.5}]
    wrong += [{f"field_{letter}": {"not": letter}, "prompt": ""} for letter in "ab"]
    rows = [{"prompt": "a", **each} for each in wrong]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    with pytest.raises(InputFileError) as refused:
        enqueue_run(redis, prompts, model=MODEL, out=tmp_path / "out")

    _, temperature, top_p, prompt, _ = str(refused.value).splitlines()
    assert temperature.startswith("  2 rows: temperature=3: ")
    assert temperature.endswith(", lines 1, 3")
    assert top_p.startswith("  line 2, row 1: top_p=0: ")
    assert prompt.startswith("  2 rows: prompt=''")


def test_no_more_kinds_are_told_than_a_screen_holds() -> None:
    bad = BadRows()
    for row, name in enumerate("abcdefghijklmnopqrstuvwxy"):
        bad.add(SourceRow(row, row + 1, str(row), {}, None, 1, InvalidRequestError(f"no {name}")))

    *listed, more = bad.described()

    assert (len(bad), len(listed), more) == (25, 20, "... and 5 more rows")


def test_bad_rows_are_skipped_on_request_and_keep_their_place(redis: Redis, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = ['{"id": "2", "prompt": "a"}', "oops", '{"id": "2", "prompt": "b"}', '{"id": "x"}']
    prompts.write_text("\n".join(lines) + "\n")

    enqueued = enqueue_run(redis, prompts, model=MODEL, out=tmp_path / "out", skip_bad_rows=True)

    assert enqueued.spec.bad_rows == len(enqueued.bad_rows) == 3
    rows = payload_of(redis, enqueued.spec, 0).rows
    assert [(row.row, row.id, bool(row.error)) for row in rows] == [
        (0, None, False),
        (1, "1", True),
        (2, "row-2", True),
        (3, "x", True),
    ]
    assert rows[2].data == {"id": "2", "prompt": "b"}
    assert "earlier row" in str(rows[2].error)


def test_a_file_that_is_missing_or_empty_enqueues_nothing(redis: Redis, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    for name in ("missing.jsonl", "empty.jsonl"):
        with pytest.raises(InputFileError, match=name):
            enqueue_run(redis, tmp_path / name, model=MODEL, out=tmp_path / "out")
    assert redis.keys("*") == []


# The same run again.


def test_the_same_run_twice_is_refused(redis: Redis, tmp_path: Path) -> None:
    spec = enqueue(redis, tmp_path, rows=4, shard_size=2)
    before = {key: redis.dump(key) for key in redis.keys("*")}

    with pytest.raises(RunExistsError, match=rf"{spec.run_id} was enqueued before.*--resume"):
        enqueue(redis, tmp_path, rows=4, shard_size=2)

    assert {key: redis.dump(key) for key in redis.keys("*")} == before


def test_another_output_folder_is_another_run(redis: Redis, tmp_path: Path) -> None:
    first = enqueue(redis, tmp_path, rows=2, shard_size=2)
    second = enqueue(redis, tmp_path, rows=2, shard_size=2, out=tmp_path / "second")

    assert first.run_id != second.run_id


def test_resuming_a_run_that_lacks_nothing_enqueues_nothing(redis: Redis, tmp_path: Path) -> None:
    spec = enqueue(redis, tmp_path, rows=6, shard_size=2)

    assert resume(redis, tmp_path, spec) == 0
    assert open_queue(redis, spec.queue).count == 3


def test_resuming_a_run_the_server_does_not_know_starts_it(redis: Redis, tmp_path: Path) -> None:
    spec = enqueue(redis, tmp_path, rows=6, shard_size=2, resume=True)

    assert shard_statuses(redis, spec) == ["queued"] * 3


def test_resuming_enqueues_only_what_is_missing(redis: Redis, tmp_path: Path) -> None:
    spec = enqueue(redis, tmp_path, rows=14, shard_size=2)
    queue = open_queue(redis, spec.queue)
    end(redis, spec, 0, Counts(ok=2))
    end(redis, spec, 1, None)
    job_of(redis, spec, 2).delete()
    job_of(redis, spec, 3).cancel()
    started, scheduled = job_of(redis, spec, 4), job_of(redis, spec, 5)
    queue.remove(started)
    started.set_status("started")
    redis.zadd(queue.started_job_registry.key, {f"{started.id}:execution": time.time() + 60})
    queue.remove(scheduled)
    scheduled.set_status("scheduled")
    redis.zadd(queue.scheduled_job_registry.key, {scheduled.id: time.time() + 60})

    assert resume(redis, tmp_path, spec) == 3

    assert shard_statuses(redis, spec) == [
        "finished",
        "queued",
        "queued",
        "queued",
        "started",
        "scheduled",
        "queued",
    ]
    assert queue.get_job_ids() == [spec.shard_id(shard) for shard in (6, 1, 2, 3)]
    assert queue.failed_job_registry.get_job_ids() == []
    assert queue.canceled_job_registry.get_job_ids() == []
    assert job_of(redis, spec, 1).retries_left == RETRY.max
    assert [row.row for row in payload_of(redis, spec, 2).rows] == [4, 5]


def test_a_resumed_run_ends_like_any_other(redis: Redis, tmp_path: Path) -> None:
    spec = enqueue(redis, tmp_path, rows=6, shard_size=2)
    end(redis, spec, 0, Counts(ok=2))
    end(redis, spec, 1, None)
    end(redis, spec, 2, Counts(ok=2))
    resume(redis, tmp_path, spec)
    assert status_of(redis, spec) == "deferred"

    end(redis, spec, 1, Counts(ok=2))

    assert status_of(redis, spec) == "queued"


def test_shards_that_are_done_are_left_alone_when_their_jobs_are_gone(
    redis: Redis, tmp_path: Path
) -> None:
    """Finished jobs expire in Redis after a day; the ledger knows better."""
    spec = enqueue(redis, tmp_path, rows=4, shard_size=2)
    end(redis, spec, 0, Counts(ok=2))
    job_of(redis, spec, 0).delete()

    assert resume(redis, tmp_path, spec) == 0


@pytest.mark.parametrize("fate", ["deleted", "failed"])
def test_resuming_brings_the_finalize_job_back(redis: Redis, tmp_path: Path, fate: str) -> None:
    spec = enqueue(redis, tmp_path, rows=4, shard_size=2)
    finalize = job_of(redis, spec)
    if fate == "deleted":
        finalize.delete()
    else:
        finalize.set_status("failed")
    end(redis, spec, 0, Counts(ok=2))

    resume(redis, tmp_path, spec)
    assert status_of(redis, spec) == "deferred"

    end(redis, spec, 1, Counts(ok=2))
    assert status_of(redis, spec) == "queued"


def test_resuming_releases_the_finalize_job_when_all_shards_are_done(
    redis: Redis, tmp_path: Path
) -> None:
    spec = enqueue(redis, tmp_path, rows=4, shard_size=2)
    job_of(redis, spec).delete()
    for shard in range(2):
        end(redis, spec, shard, Counts(ok=2))

    assert resume(redis, tmp_path, spec) == 0

    assert open_queue(redis, spec.queue).get_job_ids() == [spec.finalize_id]


def test_a_finished_run_is_not_enqueued_again(redis: Redis, tmp_path: Path) -> None:
    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    end(redis, spec, 0, Counts(ok=2))
    Ledger(redis).finish(spec.run_id)
    job_of(redis, spec).delete()

    assert resume(redis, tmp_path, spec) == 0

    assert not BatchJob.exists(spec.finalize_id, redis)


# A crash, or workers, in the middle of it.


class CrashError(Exception):
    pass


def after_each(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], object]
) -> None:
    """Do something after each call of a function, and before its caller goes on."""
    function = getattr(owner, name)

    def called(*args: Any, **kwargs: Any) -> Any:
        answer = function(*args, **kwargs)
        act()
        return answer

    monkeypatch.setattr(owner, name, called)


def test_a_producer_that_dies_half_way_is_resumed(
    redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two shards a round trip, and the producer dies after the first."""

    def crash() -> None:
        raise CrashError

    monkeypatch.setattr(producer, "ENQUEUE_BATCH", 2)
    after_each(monkeypatch, RunJobs, "enqueue_missing", crash)
    with pytest.raises(CrashError):
        enqueue(redis, tmp_path, rows=15, shard_size=3)
    monkeypatch.undo()
    (run_id,) = Ledger(redis).runs()
    spec = Ledger(redis).spec(run_id)
    assert open_queue(redis, spec.queue).count == 2

    # Workers were faster than the resumption, and did not take the half for the whole.
    for shard in range(2):
        end(redis, spec, shard, Counts(ok=3))
    assert status_of(redis, spec) == "deferred"

    assert resume(redis, tmp_path, spec) == 3
    assert shard_statuses(redis, spec) == ["finished", "finished", "queued", "queued", "queued"]
    for shard in range(2, 5):
        end(redis, spec, shard, Counts(ok=3))
    assert status_of(redis, spec) == "queued"


def test_workers_that_keep_up_with_the_producer_do_not_release_the_finalize_job(
    redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "ENQUEUE_BATCH", 1)
    shards = itertools.count()

    def work() -> None:
        (run_id,) = Ledger(redis).runs()
        spec = Ledger(redis).spec(run_id)
        assert status_of(redis, spec) == "deferred"
        end(redis, spec, next(shards), Counts(ok=2))

    after_each(monkeypatch, RunJobs, "enqueue_missing", work)
    spec = enqueue(redis, tmp_path, rows=8, shard_size=2)

    assert next(shards) == 4, "a shard ended after each round trip"
    assert status_of(redis, spec) == "queued"
    assert open_queue(redis, spec.queue).get_job_ids() == [spec.finalize_id]


@pytest.mark.parametrize("rows", [299, 301])
def test_a_file_that_changes_while_it_is_enqueued_is_noticed(
    redis: Redis, tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = write_prompts(tmp_path / "prompt.jsonl", 300)
    after_each(monkeypatch, preparation, "survey_input", lambda: write_prompts(prompts, rows))

    with pytest.raises(InputFileError, match="changed"):
        enqueue_run(redis, prompts, model=MODEL, out=tmp_path / "out")


def test_it_is_told_how_many_rows_are_read(tmp_path: Path) -> None:
    told: list[int] = []
    prompts = write_prompts(tmp_path / "prompt.jsonl", 450)
    prepare_run(prompts, read=told.append, model=MODEL, out=tmp_path / "out")
    assert told == [200, 400]


# Around it.


def test_the_end_of_a_shard_costs_the_same_in_a_run_of_any_size(
    redis: Redis, tmp_path: Path
) -> None:
    """RQ's own check reads the status of all shards at the end of each: N² in all."""
    commands = {}
    for rows in (10, 400):
        spec = enqueue(redis, tmp_path, rows=rows, shard_size=1, say=f"of {rows}")
        before = redis.info("stats")["total_commands_processed"]
        end(redis, spec, 0, Counts(ok=1))
        commands[rows] = redis.info("stats")["total_commands_processed"] - before
    assert commands[400] < commands[10] + 20


def test_other_peoples_jobs_in_the_queue_are_left_alone(redis: Redis, tmp_path: Path) -> None:
    queue = open_queue(redis, "mlx-smollm2-135m")
    queue.enqueue("some.function", job_id="theirs")

    spec = enqueue(redis, tmp_path, rows=2, shard_size=2)
    resume(redis, tmp_path, spec)

    assert queue.get_job_ids() == ["theirs", spec.shard_id(0)]
    assert Job.fetch("theirs", redis, JSONSerializer).get_status() == "queued"
