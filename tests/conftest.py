"""What all tests share: models, and a real Redis server in each process that runs tests."""

from __future__ import annotations

import contextlib
import gc
import os
import signal

# Two threads on two busy cores are many times slower than one each.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLX_BATCH_REPORT", "0")  # each takes a second or two
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.connection import AbstractConnection

from jobs.connection import connect
from tests.helpers.bench import Bench
from worker.local.embedded_redis import EmbeddedRedis

# A shell has what it starts in the background ignore SIGINT, and nohup SIGHUP: so would all that
# tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

MODEL = "smollm2-135m"


@pytest.fixture(scope="session")
def language_model() -> Iterator[object]:
    from vllm_mlx.models import MLXLanguageModel

    with MLXLanguageModel(MODEL) as model:
        yield model


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny llama with random weights, where it matters that tokens come, and not which."""
    from tests.helpers.text_model import write_text_model

    return write_text_model(tmp_path_factory.mktemp("text") / "tiny")


@pytest.fixture(scope="session")
def tiny_model(text_folder: str) -> Iterator[object]:
    from vllm_mlx.models import MLXLanguageModel

    with MLXLanguageModel(text_folder) as model:
        yield model


@pytest.fixture(scope="session")
def vision_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3-VL with random weights, whose answers never end by themselves."""
    from tests.helpers.vlm import random_vlm

    return random_vlm(tmp_path_factory.mktemp("vision"), endless=True)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the one server; tests take `redis_url` or `redis`, which are empty."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of a server that holds nothing."""
    with connect(redis_server) as connection:
        connection.flushall()
    return redis_server


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A connection to a server that holds nothing."""
    with connect(redis_url) as connection:
        yield connection


@pytest.fixture
def bench(redis: Redis, redis_url: str, tmp_path: Path) -> Iterator[Bench]:
    """An empty Redis, a folder, and workers that end with the test."""
    bench = Bench(redis, redis_url, tmp_path)
    yield bench
    bench.close()


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """A worker replaces the handlers of its process, which is this one."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {signum: signal.getsignal(signum) for signum in signals}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of garbage collections: each engine that ends makes one,
    which looks at 400,000 objects for a quarter of a second."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Close what RQ's subscriber threads hold: one may sleep for a minute after its worker ended,
    and a socket that is found open at the very end fails a session of which all tests passed."""
    for each in gc.get_objects():
        if issubclass(type(each), AbstractConnection):
            with contextlib.suppress(AttributeError):  # one with bad options is never built whole
                each.disconnect()
