"""What was interrupted, left or dropped ends, and takes neither the next call nor the process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable

import pytest

import vllm_mlx.models.base
from tests.helpers.decoding import ENDLESS
from tests.helpers.vlm import image
from vllm_mlx.batching.core import EngineCore
from vllm_mlx.engine import BatchedEngine, SimpleEngine
from vllm_mlx.errors import EngineStoppedError
from vllm_mlx.models import MLXLanguageModel, MLXMultimodalLM

MODEL = "smollm2-135m"
LONG = {**ENDLESS, "temperature": 1.0, "seed": 1}
CHAT = [{"role": "user", "content": "Tell me a very long story."}]


@pytest.fixture(scope="module")
def mllm(vision_folder):
    with MLXMultimodalLM(str(vision_folder)) as model:
        yield model


@contextlib.contextmanager
def ctrl_c_after(seconds: float):
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    timer.join()


def is_idle(core: EngineCore) -> bool:
    return (core.stats.running, core.stats.waiting) == (0, 0)


def soon(condition: Callable[[], bool], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def run(script: str, *, fails: bool = False) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode != 0) == fails, (ended.returncode, ended.stderr)
    assert "terminate called" not in ended.stderr
    assert "Event loop is closed" not in ended.stderr
    return ended


# Ctrl-C


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.generate("Once upon a time", **LONG),
        lambda model: model.generate_samples("Once upon a time", 3, **LONG),
        lambda model: model.chat(CHAT, **LONG),
        lambda model: list(model.stream_generate("Once upon a time", **LONG)),
    ],
    ids=["generate", "generate_samples", "chat", "stream_generate"],
)
def test_ctrl_c_cancels_what_it_interrupts(tiny_model, call):
    with ctrl_c_after(0.5):
        call(tiny_model)
    assert soon(lambda: is_idle(tiny_model._core))


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.generate("?", images=[image()], **LONG),
        lambda model: model.generate_samples("?", 3, images=[image()], **LONG),
        lambda model: model.describe_image(image(), **LONG),
        lambda model: model.answer_about_image(image(), "?", **LONG),
        lambda model: model.describe_video([image(0), image(1)], **LONG),
    ],
    ids=["generate", "generate_samples", "describe_image", "answer_about_image", "describe_video"],
)
def test_ctrl_c_cancels_what_a_model_is_asked_about_media(mllm, call):
    with ctrl_c_after(0.5):
        call(mllm)
    assert soon(lambda: is_idle(mllm._core), 2)


def endless_load(name: str, **options: object) -> object:
    while True:
        time.sleep(0.01)


def engine_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mlx-endless"]


def test_ctrl_c_ends_a_load_at_once(monkeypatch):
    monkeypatch.setattr(vllm_mlx.models.base, "load_model", endless_load)
    model = MLXLanguageModel("endless")
    began = time.monotonic()
    with ctrl_c_after(0.3):
        model.load()
    assert time.monotonic() - began < 2
    assert soon(lambda: not engine_threads())
    assert repr(model) == "<MLXLanguageModel endless: not loaded>"


async def test_a_start_that_is_cancelled_ends_at_once(monkeypatch):
    monkeypatch.setattr(vllm_mlx.engine.base, "load_model", endless_load)
    engine = SimpleEngine("endless")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine.start(), 0.3)
    assert soon(lambda: not engine_threads())


async def test_a_first_call_that_is_cancelled_leaves_the_load_to_the_others(vision_folder):
    async with BatchedEngine(str(vision_folder)) as loaded:
        expected = await loaded.generate("Hi", max_tokens=4, temperature=0)
    engine = BatchedEngine(str(vision_folder))
    first = asyncio.create_task(engine.generate("Hi", max_tokens=4))
    second = asyncio.create_task(engine.generate("Hi", max_tokens=4, temperature=0))
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second).text == expected.text
    await engine.stop()


def stubborn_load(name: str, **options: object) -> object:
    """As of a library that turns whatever is raised in it into an error of its own."""
    try:
        return endless_load(name, **options)
    except SystemExit:
        raise ImportError("half imported") from None


@pytest.mark.parametrize("load", [endless_load, stubborn_load])
async def test_stop_ends_a_load(monkeypatch, load):
    monkeypatch.setattr(vllm_mlx.engine.base, "load_model", load)
    engine = SimpleEngine("endless")
    call = asyncio.create_task(engine.generate("Hello"))
    await asyncio.sleep(0.1)
    await engine.stop()
    with pytest.raises(EngineStoppedError):
        await call
    assert not engine_threads()


def test_a_model_that_was_interrupted_while_it_loaded_loads_again(vision_folder):
    model = MLXMultimodalLM(str(vision_folder))
    threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
    with contextlib.suppress(KeyboardInterrupt):
        model.load()
        time.sleep(1)
    assert model.generate("?", max_tokens=1).completion_tokens == 1
    model.unload()


# Streams


def test_a_loop_that_is_left_ends_its_stream(tiny_model):
    stream = tiny_model.stream_generate("Once upon a time", **LONG)
    for _ in stream:
        break
    assert soon(lambda: is_idle(tiny_model._core))
    assert list(stream) == []


def test_a_loop_goes_on_where_next_was(tiny_model):
    options = {"max_tokens": 12, "seed": 3}
    whole = tiny_model.generate("Once upon a time", **options).text
    stream = tiny_model.stream_generate("Once upon a time", **options)
    assert next(stream).text + "".join(chunk.text for chunk in stream) == whole


def test_a_stream_ends_with_its_block_and_its_last_name(tiny_model):
    with contextlib.closing(tiny_model.stream_generate("Once upon a time", **LONG)) as stream:
        next(stream)
    assert soon(lambda: is_idle(tiny_model._core))
    stream = tiny_model.stream_generate("Once upon a time", **LONG)
    next(stream)
    del stream
    assert soon(lambda: is_idle(tiny_model._core))


def test_a_stream_that_fails_in_the_loop_ends(tiny_model):
    stream = tiny_model.stream_generate("Once upon a time", **LONG)

    def fail() -> None:
        for chunk in stream:
            print(chunk.completion_tokens / 0)

    with pytest.raises(ZeroDivisionError):
        fail()
    assert soon(lambda: is_idle(tiny_model._core))


async def test_an_asynchronous_loop_that_is_left_ends_its_stream(vision_folder):
    async with BatchedEngine(str(vision_folder)) as engine:
        stream = engine.stream_generate("Once upon a time", **LONG)
        async for _ in stream:
            break
        assert await asyncio.to_thread(soon, lambda: is_idle(engine._core), 2)
        assert [chunk async for chunk in stream] == []
        stream = engine.stream_generate("Once upon a time", **LONG)
        await anext(stream)
        del stream
        assert await asyncio.to_thread(soon, lambda: is_idle(engine._core), 2)
        stream = engine.stream_generate("Once upon a time", **LONG)
        await anext(stream)
        await stream.aclose()
        assert await asyncio.to_thread(soon, lambda: is_idle(engine._core), 2)


async def test_a_chunk_that_is_waited_for_too_long_ends_the_stream(vision_folder):
    async with SimpleEngine(str(vision_folder)) as engine:
        call = asyncio.create_task(engine.generate("Once upon a time", **LONG))
        await asyncio.sleep(0.2)
        stream = engine.stream_generate("Once upon a time", **LONG)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.2)
        assert soon(lambda: engine.stats.waiting == 0)
        assert engine.stats.running == 1
        call.cancel()


# Owners that are dropped


@pytest.mark.parametrize("kind", [SimpleEngine, BatchedEngine, MLXMultimodalLM])
async def test_what_is_dropped_ends_its_thread_and_frees_its_model(vision_folder, kind):
    gc.collect()
    gc.disable()
    try:
        owner = kind(str(vision_folder))
        answer = owner.generate("?", max_tokens=3)
        output = await answer if asyncio.iscoroutine(answer) else answer
        assert output.completion_tokens == 3
        thread, model = owner._core._thread, weakref.ref(owner._core.loaded.model)
        del owner, answer
        thread.join(5)
        assert not thread.is_alive()
        del thread
        assert soon(lambda: model() is None)
    finally:
        gc.enable()


LEAVE = f"""
import asyncio, os, signal
from vllm_mlx.engine import BatchedEngine

async def main():
    engine = BatchedEngine({MODEL!r})
    async for chunk in engine.stream_generate("Once upon a time", max_tokens=1500, seed=1):
        if chunk.completion_tokens > 2:
            {{}}

asyncio.run(main())
"""


def test_a_process_ends_in_order_after_a_stream_was_left():
    run(LEAVE.format("break"))


def test_a_process_ends_in_order_after_ctrl_c_in_a_stream():
    ended = run(LEAVE.format("os.kill(os.getpid(), signal.SIGINT)"), fails=True)
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize(
    "start",
    ["MLXLanguageModel(NAME).load()", "asyncio.run(BatchedEngine(NAME).start())"],
    ids=["load", "start"],
)
def test_a_process_ends_at_once_after_ctrl_c_while_it_loads(start):
    script = f"""
import asyncio, os, signal, threading, time
from vllm_mlx.engine import BatchedEngine, base
from vllm_mlx.models import MLXLanguageModel, base as models

def load(name, **options):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    while True:
        time.sleep(0.01)

NAME = "endless"
base.load_model = models.load_model = load
{start}
"""
    ended = run(script, fails=True)
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt")


def test_a_forked_child_is_told_to_spawn():
    script = f"""
import multiprocessing
from vllm_mlx.models import MLXLanguageModel

def use(model):
    for call in (model.load, lambda: model.generate("A", max_tokens=1), model.unload):
        try:
            call()
        except Exception as error:
            print(type(error).__name__, error, flush=True)

def use_both():
    use(model)
    use(MLXLanguageModel({MODEL!r}))

model = MLXLanguageModel({MODEL!r})
model.generate("A", max_tokens=1)
child = multiprocessing.get_context("fork").Process(target=use_both)
child.start()
child.join(30)
print(child.exitcode, len(model.generate("A", max_tokens=1).text))
child.kill()
"""
    *told, ended = run(script).stdout.splitlines()
    assert ended.startswith("0 ")
    assert len(told) == 4
    for each in told:
        assert each.startswith("EngineStoppedError")
        assert "fork" in each
        assert "spawn" in each
