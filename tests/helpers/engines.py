"""A stand-in for the engine, and the smallest ways to make a run for it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from redis import Redis
from rq.job import Job

from jobs.ledger import Counts, ShardLease
from jobs.producer import Enqueued, enqueue_run
from jobs.queue.run_jobs import open_queue
from jobs.run_spec import RunSpec
from vllm_mlx.batching.prompts.prompt import MediaPrompt
from vllm_mlx.batching.request import Request
from vllm_mlx.outputs import EngineStats, GenerationOutput, MediaInfo
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.video_params import VideoParams
from worker.status.status import RunStatus, run_status

MODEL = "smollm2-135m"
SEEING = "org/vision-model"
"""One that no machine here has: nobody can say that it sees no images."""


def echo(prompt: Any) -> GenerationOutput:
    if isinstance(prompt, MediaPrompt):
        seen = tuple(look(part, prompt.video) for part in media_parts(prompt))
        return replace(echo(prompt.messages), media=seen)
    return GenerationOutput(f"echo {prompt}", 3, 2, "stop", MODEL, latency_s=0.1)


def media_parts(prompt: MediaPrompt) -> list[dict[str, str]]:
    contents = [message["content"] for message in prompt.messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return [part for part in parts if part["type"] != "text"]


def look(part: dict[str, str], video: VideoParams) -> MediaInfo:
    """What a model might have seen: of a video as many frames as may be, from the first second."""
    digest = hashlib.sha256(part[part["type"]].encode()).hexdigest()
    if part["type"] == "image":
        return MediaInfo("image", digest, 64, 48)
    frames = min(int(video.video_fps), video.video_max_frames)
    times = tuple(frame / video.video_fps for frame in range(frames))
    return MediaInfo("video", digest, 64, 48, 1.0, times)


@dataclass(frozen=True)
class Asked:
    """One row as it reached the engine."""

    prompt: Any
    params: SamplingParams
    future: Future[GenerationOutput]


class DoubleEngine:
    """Answers rows at once, or when told to, in place of `vllm_mlx.batching.core.EngineCore`.

    It stands in where only bookkeeping matters: a model answers when it likes, so no test could
    hold three jobs in flight with two rows of one of them open.

    Args:
        held: rows wait for `answer()`.
        say: makes the answer to a prompt; what it raises is the row's error.
    """

    def __init__(
        self,
        max_num_seqs: int = 4,
        *,
        held: bool = False,
        say: Callable[[Any], GenerationOutput] = echo,
    ) -> None:
        self.max_num_seqs = max_num_seqs
        self.stats = EngineStats()
        self.asked: list[Asked] = []
        self.commands = 0
        self.is_running = False
        self._held = held
        self._say = say

    def start(self) -> None:
        self.is_running = True

    def stop(self) -> None:
        self.is_running = False

    def submit(self, *requests: Request) -> list[Future[GenerationOutput]]:
        self.commands += 1
        return [self.ask(request.prompt, request.params) for request in requests]

    def ask(self, prompt: Any, params: SamplingParams) -> Future[GenerationOutput]:
        row = Asked(prompt, params, Future())
        self.asked.append(row)
        if not self._held:
            self._answer(row)
        return row.future

    def cancel_waiting(self, futures: Iterable[Future[GenerationOutput]]) -> None:
        """Those beyond `max_num_seqs` have not begun."""
        waiting = {row.future for row in self.open[self.max_num_seqs :]}
        for future in waiting.intersection(futures):
            future.cancel()

    @property
    def prompts(self) -> list[Any]:
        """Everything that was asked, in order."""
        return [row.prompt for row in self.asked]

    @property
    def open(self) -> list[Asked]:
        """What is neither answered nor cancelled."""
        return [row for row in self.asked if not row.future.done()]

    def answer(self, count: int | None = None, *, of: str = "") -> None:
        """Answer the first `count` open rows, or all; `of`: only those with this in the prompt."""
        rows = [row for row in self.open if of in str(row.prompt)]
        for row in rows[:count]:
            self._answer(row)

    def _answer(self, row: Asked) -> None:
        try:
            output = self._say(row.prompt)
        except BaseException as error:
            row.future.set_exception(error)
        else:
            row.future.set_result(output)
        tokens = self.stats.completion_tokens + 2
        self.stats = replace(self.stats, completion_tokens=tokens)


def write_prompts(path: Path, rows: int, *, say: str = "prompt", **fields: Any) -> Path:
    """JSONL of rows `{"id": "r0", "prompt": "prompt 0"}`, `{"id": "r1", …}`."""
    lines = [{"id": f"r{n}", "prompt": f"{say} {n}", **fields} for n in range(rows)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def enqueue(
    redis: Redis, folder: Path, rows: int, shard_size: int, *, say: str = "prompt", **options: Any
) -> RunSpec:
    """Enqueue a run of made-up prompts, with its dataset at `folder/say`."""
    prompts = write_prompts(folder / f"{say}.jsonl", rows, say=say)
    options = {"model": MODEL, "out": folder / say, "shard_size": shard_size} | options
    enqueued: Enqueued = enqueue_run(redis, prompts, **options)
    return enqueued.spec


def job_of(redis: Redis, spec: RunSpec, shard: int | None = None) -> Job:
    """The RQ job of a shard, or the finalize job, as it is in Redis now."""
    job_id = spec.finalize_id if shard is None else spec.shard_id(shard)
    job = open_queue(redis, spec.queue).fetch_job(job_id)
    assert job is not None, f"no job {job_id}"
    return job


def status_of(redis: Redis, spec: RunSpec, shard: int | None = None) -> str:
    return str(job_of(redis, spec, shard).get_status().value)


def commit_shard(redis: Redis, run_id: str, shard: int, counts: Counts) -> None:
    """As a worker does that has all rows of a shard."""
    lease = ShardLease.claim(redis, run_id, shard)
    if lease:
        lease.commit(counts)


def wait_for(condition: Callable[[], Any], timeout: float = 60.0) -> None:
    """Poll until `condition` holds; it may do a step of work itself."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.01)


async def until(condition: Callable[[], Any]) -> None:
    """Poll beside the event loop until `condition` holds."""
    await asyncio.to_thread(wait_for, condition)


def wait_until_finished(
    connection: Redis, run_id: str, timeout: float, poll: float = 0.2
) -> RunStatus:
    """Poll until the run is finished or one of its jobs failed for good.

    Raises:
        TimeoutError: neither happened within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        status = run_status(connection, run_id)
        if status.is_finished or status.errors:
            return status
        time.sleep(poll)
    raise TimeoutError(f"{run_id} is not finished after {timeout} s")
