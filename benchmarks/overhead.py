"""What everything but the model costs: rows through the queue, and a million prompts enqueued.

Three measurements, each against a real Redis of its own:

    instant   a worker whose engine answers at once: rows/s from Redis to committed Parquet
    model     tokens/s of the real model through the queue, in a supervised process, ÷ an engine
              fed directly in this process, alternating; the median of the pairwise ratios
    enqueue   a file of short prompts: seconds, memory in Redis, peak memory of the process

    python benchmarks/overhead.py [instant] [model] [enqueue] [--rows N] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from jobs.connection import connect
from jobs.dataset import verify
from jobs.producer import enqueue_run
from jobs.sources import detect_format, read_requests
from vllm_mlx.batching.request import Request
from vllm_mlx.outputs import EngineStats, GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from worker.batch_worker import BatchWorker
from worker.engine.supervisor import SupervisedEngine
from worker.engine.text_engine import TextEngine
from worker.local.embedded_redis import EmbeddedRedis

MODEL = "smollm2-135m"
COPIES = 3  # of the 64 prompts, in jobs of 16: a bulk job does not end with its first window


class InstantEngine:
    """Answers every prompt at once with the same 20 tokens."""

    max_num_seqs = 128
    stats = EngineStats()

    def start(self) -> None:
        """Nothing to load."""

    def stop(self) -> None:
        """Nothing to free."""

    def submit(self, *requests: Request) -> list[Future[GenerationOutput]]:
        return [_answered() for _ in requests]


def _answered() -> Future[GenerationOutput]:
    future: Future[GenerationOutput] = Future()
    text = "An answer of about twenty tokens, as a small dataset would have it."
    future.set_result(GenerationOutput(text, 12, 20, "stop", MODEL))
    return future


@contextmanager
def workplace() -> Iterator[tuple[Path, Redis]]:
    folder = Path(tempfile.mkdtemp(prefix="overhead-"))
    try:
        with EmbeddedRedis(folder / "redis") as server, connect(server.url) as connection:
            yield folder, connection
    finally:
        shutil.rmtree(folder)


def write_prompts(path: Path, rows: int) -> Path:
    """Prompts of nine words drawn from 4,096, so that they compress no better than real ones."""
    draw = random.Random(0)
    words = [
        "".join(draw.choices("abcdefghijklmnoprstuvwy", k=draw.randint(2, 9))) for _ in range(4096)
    ]
    with path.open("w") as file:
        for _ in range(rows):
            prompt = "Write about " + " ".join(draw.choices(words, k=9))
            file.write(json.dumps({"prompt": prompt}) + "\n")
    return path


def work(engine: TextEngine, connection: Redis) -> float:
    started = time.perf_counter()
    BatchWorker(MODEL, engine, connection=connection).work(burst=True)
    return time.perf_counter() - started


def instant(rows: int, rounds: int) -> None:
    speeds = []
    for _ in range(rounds):
        with workplace() as (folder, connection):
            prompts = write_prompts(folder / "prompts.jsonl", rows)
            enqueue_run(connection, prompts, model=MODEL, out=folder / "out")
            seconds = work(InstantEngine(), connection)
            assert verify(folder / "out").complete
            speeds.append(rows / seconds)
    print(f"instant: {rows} rows, {statistics.median(speeds):.0f} rows/s (of {_list(speeds)})")


class KeptEngine:
    """An engine that outlives the worker that uses it."""

    def __init__(self, engine: TextEngine) -> None:
        self._engine = engine
        self.max_num_seqs = engine.max_num_seqs
        self.submit = engine.submit

    @property
    def stats(self) -> EngineStats:
        return self._engine.stats

    def start(self) -> None:
        self._engine.start()

    def stop(self) -> None:
        """The next round goes on with it."""


def model(rounds: int) -> None:
    from vllm_mlx.batching.core import EngineCore
    from vllm_mlx.models.loading import load_model

    config = SchedulerConfig(max_num_seqs=16)
    core, supervised = EngineCore(MODEL, load_model, config), SupervisedEngine(MODEL, config)
    core.start()
    supervised.start()
    examples = Path(__file__).parents[1] / "examples" / "prompts.jsonl"
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        prompts = _multiplied(examples, Path(folder) / "prompts.jsonl", COPIES)
        for engine in (core, supervised):
            _direct(engine, examples)  # warm up
        ratios = []
        for _ in range(rounds):
            direct = _direct(core, prompts)
            queued = _queued(supervised, prompts)
            ratios.append(queued / direct)
            print(f"model: direct {direct:.1f} tok/s, queued {queued:.1f}: {queued / direct:.3f}")
    print(f"model: queued ÷ direct {statistics.median(ratios):.3f} (of {_list(ratios)})")
    supervised.stop()
    core.stop()


def _multiplied(source: Path, path: Path, times: int) -> Path:
    """A longer file of like prompts; each ends in its own way, or its copies would share it."""
    lines = []
    for copy in range(times):
        for line in source.read_text().splitlines():
            row = json.loads(line)
            row["id"] += f"-{copy}"
            ending = f" ({copy})" if copy else ""
            if "prompt" in row:
                row["prompt"] += ending
            else:
                row["messages"][-1]["content"] += ending
            lines.append(json.dumps(row))
    path.write_text("\n".join(lines))
    return path


def _direct(core: Any, prompts: Path) -> float:
    requests = [source.request for source in read_requests(prompts, detect_format(prompts))]
    started = time.perf_counter()
    futures = core.submit(
        *(
            Request(request.messages or request.prompt, request.over(GREEDY))
            for request in requests
            if request
        )
    )
    tokens = sum(future.result().completion_tokens for future in futures)
    return float(tokens / (time.perf_counter() - started))


def _queued(engine: TextEngine, prompts: Path) -> float:
    with workplace() as (folder, connection):
        out = folder / "out"
        enqueue_run(connection, prompts, model=MODEL, out=out, sampling=GREEDY, shard_size=16)
        seconds = work(KeptEngine(engine), connection)
        return verify(out).completion_tokens / seconds


def enqueue(rows: int) -> None:
    with workplace() as (folder, connection):
        prompts = write_prompts(folder / "prompts.jsonl", rows)
        before = int(connection.info("memory")["used_memory"])
        started = time.perf_counter()
        enqueue_run(connection, prompts, model=MODEL, out=folder / "out")
        seconds = time.perf_counter() - started
        used = int(connection.info("memory")["used_memory"]) - before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"enqueue: {rows} prompts in {seconds:.1f} s, {used / 2**20:.0f} MB in Redis, "
            f"peak {peak:.0f} MB here"
        )


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


GREEDY = SamplingParams.of(temperature=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", nargs="*", default=["instant", "model", "enqueue"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("rq.worker").setLevel(logging.WARNING)
    if "enqueue" in given.what:
        enqueue(given.rows or 1_000_000)
    if "instant" in given.what:
        instant(given.rows or 20_000, given.rounds)
    if "model" in given.what:
        model(given.rounds)


if __name__ == "__main__":
    main()
