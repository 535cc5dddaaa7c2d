"""Both engines with images and videos: side by side, given up, stopped, shared, bounded."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.clips import make_clip
from tests.helpers.decoding import ENDLESS
from tests.helpers.engines import until, wait_for
from tests.helpers.vlm import clip, image
from tests.helpers.web import Web, ok
from vllm_mlx import platform
from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.prompts.prompt import user_prompt
from vllm_mlx.batching.request import Request
from vllm_mlx.engine import BatchedEngine, SimpleEngine
from vllm_mlx.errors import (
    EngineError,
    EngineStoppedError,
    InvalidRequestError,
    KVCacheBudgetError,
    MediaError,
    MediaNotAllowedError,
    RequestAbortedError,
)
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.media.store import MediaStore
from vllm_mlx.models.loading import load_model
from vllm_mlx.models.multimodal import MLXMultimodalLM
from vllm_mlx.models.vision import reading
from vllm_mlx.models.vision.preparation import VisionPreparer
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig

GREEDY = {"max_tokens": 6, "temperature": 0}


def open_images(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"images": [image(first + at)]} for at in range(count)]


def store_of(engine: Any) -> MediaStore[Any]:
    store: MediaStore[Any] = thread_of(engine).parts.media._preparer._store
    return store


def thread_of(engine: Any) -> Any:
    return getattr(engine, "_core", engine)._thread


def model_of(engine: Any) -> Any:
    return thread_of(engine).parts.loaded.model


async def is_idle(engine: Any) -> None:
    """Nothing runs, waits, is pinned or has a name any more."""
    thread = thread_of(engine)
    await until(lambda: engine.stats.running == engine.stats.waiting == 0)
    await until(lambda: store_of(engine).pinned_nbytes == 0)
    await until(lambda: not thread._unfinished)


@pytest.fixture(params=[SimpleEngine, BatchedEngine])
async def engine(request, vision_folder):
    async with request.param(str(vision_folder)) as made:
        yield made
        await is_idle(made)


@pytest.fixture
async def batched(vision_folder):
    async with BatchedEngine(str(vision_folder), max_num_seqs=4) as made:
        yield made
        await is_idle(made)


class Slow:
    """A web server whose images come when `open` is set."""

    def __init__(self, folder: Path) -> None:
        path = folder / "slow.png"
        Image.fromarray(image(77)).save(path)
        self.open = threading.Event()
        self._web = Web()
        self._web.says("/slow.png", lambda connection: self._say(connection, path.read_bytes()))
        self.url = f"http://127.0.0.1:{self._web.port}/slow.png"

    def _say(self, connection: Any, data: bytes) -> None:
        self.open.wait(20)
        connection.sendall(ok(data))

    @property
    def asked(self) -> int:
        return len(self._web.requests)

    def close(self) -> None:
        self.open.set()
        self._web.close()


@pytest.fixture
def slow(tmp_path):
    made = Slow(tmp_path)
    yield made
    made.close()


@pytest.fixture
def files(tmp_path):
    Image.fromarray(image(1)).save(tmp_path / "photo.png")
    make_clip(tmp_path / "video.mp4", 60)
    return tmp_path


# Side by side


async def test_many_at_once_are_what_each_is_alone(engine, files):
    asked: list[dict[str, Any]] = []
    for at in range(5):
        asked += [
            {"prompt": f"Say {at}"},
            {"prompt": f"Image {at}", "images": [image(at)]},
            {"prompt": f"Video {at}", "videos": [clip(at, 2 + at % 3)]},
            {"prompt": f"Both {at}", "images": [files / "photo.png"], "videos": [clip(at)]},
        ]
    alone = [await engine.generate(**each, **GREEDY) for each in asked]
    bad = [{"prompt": "?", "images": ["gone.png"]}, {"prompt": "?", "videos": [b"x" * 99]}]
    together = await asyncio.gather(
        *(engine.generate(**each, **GREEDY) for each in [*asked, *bad]), return_exceptions=True
    )
    assert [type(error) for error in together[-2:]] == [MediaError, MediaError]
    said = [(output.text, output.media) for output in together[:-2]]
    assert said == [(output.text, output.media) for output in alone]


async def test_streams_and_samples(engine):
    chunks = [chunk async for chunk in engine.stream_generate("?", images=[image()], **GREEDY)]
    whole = await engine.generate("?", images=[image()], **GREEDY)
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert chunks[-1].media == whole.media is not None
    with pytest.raises(MediaError):
        await anext(engine.stream_generate("?", images=["gone.png"]))
    samples = await engine.generate_samples(
        "?", 6, images=[image()], max_tokens=5, temperature=1.5, seed=1
    )
    assert len({output.text for output in samples}) > 1
    message = [
        {
            "role": "user",
            "content": [{"type": "image", "image": image()}, {"type": "text", "text": "?"}],
        }
    ]
    assert (await engine.chat(message, **GREEDY)).text == whole.text


# Given up


async def test_cancelled_while_its_media_are_read(engine, slow):
    calls = [
        asyncio.create_task(engine.generate("?", images=[slow.url], request_id=name, **ENDLESS))
        for name in ("a", "b", "c")
    ]
    await until(lambda: slow.asked)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    # Its name is free at once, though its image is still on its way.
    again = engine.generate("?", images=[image()], request_id="a", **GREEDY)
    assert (await again).completion_tokens == 6
    assert engine.stats.waiting == 0
    slow.open.set()
    await is_idle(engine)
    assert engine.stats.completion_tokens < 20  # the others never ran


async def test_aborted_while_its_media_are_read(engine, slow):
    calls = [
        asyncio.create_task(engine.generate("?", images=[slow.url], request_id=name, **ENDLESS))
        for name in ("a", "b")
    ]
    await until(lambda: slow.asked)
    await engine.abort("a")
    with pytest.raises(RequestAbortedError, match="'a'"):
        await asyncio.wait_for(calls[0], 5)
    assert engine.stats.waiting == 1
    await engine.abort("b")
    slow.open.set()
    with pytest.raises(RequestAbortedError):
        await calls[1]
    await is_idle(engine)
    assert engine.stats.completion_tokens == 0
    assert (await engine.generate("?", images=[image()], request_id="a", **GREEDY)).text


async def test_given_up_while_it_waits_for_a_place(vision_folder):
    async with SimpleEngine(str(vision_folder)) as engine:
        first = asyncio.create_task(engine.generate("?", images=[image()], **ENDLESS))
        await until(lambda: engine.stats.running)
        waiting = [
            asyncio.create_task(engine.generate("?", images=[image(at)], request_id=f"w{at}"))
            for at in (1, 2)
        ]
        await until(lambda: thread_of(engine).parts.scheduler.waiting == 2)
        assert store_of(engine).pinned_nbytes > 0
        waiting[0].cancel()
        await engine.abort("w2")
        with pytest.raises(RequestAbortedError):
            await waiting[1]
        await until(lambda: store_of(engine).pinned_nbytes == 0)
        first.cancel()
        await is_idle(engine)


async def test_given_up_while_it_decodes(engine):
    calls = [
        asyncio.create_task(engine.generate("?", request_id=f"d{at}", **each, **ENDLESS))
        for at, each in enumerate(open_images(2))
    ]
    await until(lambda: engine.stats.completion_tokens > 5)
    calls[0].cancel()
    await engine.abort("d1")
    with pytest.raises(RequestAbortedError):
        await calls[1]
    await is_idle(engine)


async def test_two_requests_of_one_name_are_refused(engine, slow):
    first = asyncio.create_task(
        engine.generate("?", images=[slow.url], request_id="twin", **GREEDY)
    )
    await until(lambda: slow.asked)
    with pytest.raises(InvalidRequestError, match="twin"):
        await engine.generate("?", images=[image()], request_id="twin", **GREEDY)
    slow.open.set()
    assert (await first).completion_tokens == 6
    assert (await engine.generate("?", images=[image()], request_id="twin", **GREEDY)).text


@pytest.mark.parametrize("kind", [SimpleEngine, BatchedEngine])
async def test_stopping_ends_all_at_once(kind, vision_folder, slow):
    engine = kind(str(vision_folder))
    await engine.start()
    decoding = asyncio.create_task(engine.generate("?", images=[image()], **ENDLESS))
    await until(lambda: engine.stats.completion_tokens > 2)
    calls = [asyncio.create_task(engine.generate("?", images=[slow.url])) for _ in range(20)]
    await until(lambda: slow.asked)
    store, start = store_of(engine), time.monotonic()
    await engine.stop()
    for call in [decoding, *calls]:
        with pytest.raises(EngineStoppedError):
            await asyncio.wait_for(call, 5)
    assert time.monotonic() - start < 3  # the server has not answered yet
    slow.open.set()
    await until(lambda: store.nbytes == 0)
    with pytest.raises(EngineStoppedError):
        await engine.generate("?", images=[image()])
    async with engine:
        assert (await engine.generate("?", images=[slow.url], **GREEDY)).text


async def test_a_callback_may_stop_the_engine(vision_folder):
    """It runs on a thread of the pool when an image can't be read."""
    core = EngineCore(str(vision_folder), load_model)
    core.start()
    (future,) = core.submit(Request(user_prompt("?", [b"x"], None, None), SamplingParams.of()))
    stopped = threading.Event()
    future.add_done_callback(lambda _: (core.stop(), stopped.set()))
    assert await asyncio.to_thread(stopped.wait, 10)


# Beside the engine's thread


async def test_media_are_read_beside_the_engine(engine, files, monkeypatch):
    threads: dict[str, set[str]] = {"prepare": set(), "file": set()}
    prepare, read = VisionPreparer.prepare, reading.read_image

    def spy(self: Any, *args: Any) -> Any:
        threads["prepare"].add(threading.current_thread().name)
        return prepare(self, *args)

    def read_spy(*args: Any, **options: Any) -> Any:
        threads["file"].add(threading.current_thread().name)
        return read(*args, **options)

    monkeypatch.setattr(VisionPreparer, "prepare", spy)
    monkeypatch.setattr(reading, "read_image", read_spy)
    await asyncio.gather(
        *(
            engine.generate(f"{at}", images=[image(at), files / "photo.png"], **GREEDY)
            for at in range(6)
        )
    )
    assert all(name.startswith("media") for names in threads.values() for name in names)
    assert all(threads.values())


async def test_decoding_goes_on_while_a_medium_is_slow(batched, slow):
    waiting = asyncio.create_task(batched.generate("?", images=[slow.url], **GREEDY))
    await until(lambda: slow.asked)
    before = batched.stats.steps
    for each in ({}, *open_images(2)):
        assert (await batched.generate("Hello", **each, **GREEDY)).completion_tokens > 0
    assert batched.stats.steps > before + 3
    assert batched.stats.waiting == 1
    assert not waiting.done()
    slow.open.set()
    assert (await waiting).latency_s > 0.02


async def test_what_is_asked_later_waits_for_media_that_are_slow(vision_folder, slow):
    ended: list[int] = []

    async def call(limit: int, *images: Any) -> None:
        await engine.generate("?", limit, images=list(images) or None, ignore_eos=True)
        ended.append(limit)

    async with SimpleEngine(str(vision_folder)) as engine:
        asked = [(5, slow.url), (20,), (6, image(1)), (40,), (3, image(2), image(1)), (2,)]
        calls = [asyncio.create_task(call(*each)) for each in asked]
        await until(lambda: slow.asked)
        given_up = asyncio.create_task(call(7, image(3)))
        await until(lambda: engine.stats.waiting == 7)
        given_up.cancel()
        await asyncio.sleep(0.1)
        assert engine.stats.steps == 0
        slow.open.set()
        await asyncio.gather(*calls)
        assert ended == [5, 20, 6, 40, 3, 2]


def test_calls_from_threads_are_answered_in_the_order_of_asking(vision_folder, slow):
    ended: list[int] = []

    def call(limit: int, images: Any) -> None:
        model.generate("?", images, max_tokens=limit, ignore_eos=True)
        ended.append(limit)

    with MLXMultimodalLM(str(vision_folder), max_num_seqs=1) as model:
        first = model.stream_generate("Once", **ENDLESS)
        next(first)
        threads = []
        for limit, images in ((5, slow.url), (20, None), (6, image(2)), (40, None)):
            threads.append(threading.Thread(target=call, args=(limit, images)))
            threads[-1].start()
            wait_for(lambda: model._core.stats.waiting == len(threads))
        first.close()
        wait_for(lambda: not model._core.stats.running and slow.asked)
        time.sleep(0.1)  # in which the texts would run
        slow.open.set()
        for thread in threads:
            thread.join(20)
    assert ended == [5, 20, 6, 40]


async def test_a_tower_that_raises_ends_no_stream_beside_it(batched, monkeypatch):
    def broken(patches, grids):
        raise ValueError("the tower failed")

    stream = batched.stream_generate("?", images=[image()], max_tokens=40, temperature=0)
    chunks = [await anext(stream)]
    monkeypatch.setattr(model_of(batched).features, "_encode", broken)
    bad = asyncio.create_task(batched.generate("?", images=[image(1)], **GREEDY))
    chunks += [chunk async for chunk in stream]
    with pytest.raises(EngineError, match="the tower failed"):
        await bad
    monkeypatch.undo()
    whole = await batched.generate("?", images=[image()], max_tokens=40, temperature=0)
    assert "".join(chunk.text for chunk in chunks) == whole.text


async def test_latency_begins_with_the_call(engine, slow):
    call = asyncio.create_task(engine.generate("?", images=[slow.url], **GREEDY))
    await until(lambda: slow.asked)
    await asyncio.sleep(0.2)
    slow.open.set()
    assert (await call).latency_s >= 0.2


# What may be read


def answers(core: EngineCore, *sources: Any, **how: Any) -> list[Any]:
    """The output or the error of each image."""
    params = SamplingParams.of(max_tokens=2)
    prompts = [user_prompt("?", [each], None, None) for each in sources]
    futures = core.submit(*(Request(prompt, params) for prompt in prompts))
    wait_for(lambda: all(future.done() for future in futures))
    return [future.exception() or future.result() for future in futures]


def test_a_core_reads_nothing_by_default(vision_folder, files, slow):
    slow.open.set()
    path = files / "photo.png"
    core = EngineCore(str(vision_folder), load_model)
    core.start()
    *refused, array, inline = answers(
        core, str(path), path, path.as_uri(), slow.url, image(), path.read_bytes()
    )
    assert [type(error) for error in refused] == [MediaNotAllowedError] * 4
    assert "--allowed-media-path" in str(refused[0])
    assert array.completion_tokens == inline.completion_tokens == 2
    assert slow.asked == 0
    core.stop()


def test_a_core_reads_what_it_is_allowed_to(vision_folder, files, slow, tmp_path_factory):
    slow.open.set()
    outside = tmp_path_factory.mktemp("outside") / "photo.png"
    Image.fromarray(image()).save(outside)
    (files / "link.png").symlink_to(outside)
    policy = MediaPolicy.of([files], ["*"])
    core = EngineCore(str(vision_folder), load_model, media=policy)
    core.start()
    path = files / "photo.png"
    allowed, *refused = answers(core, path, outside, files / "link.png", slow.url)
    assert allowed.completion_tokens == 2
    assert [type(error) for error in refused] == [MediaNotAllowedError] * 3
    assert slow.asked == 0  # loopback is not public
    # What one prompt may read is no way around for another.
    frames = user_prompt("?", None, [[outside, outside]], None)
    with pytest.raises(MediaError, match="given as list"):
        core.submit(Request(frames, SamplingParams.of()))[0].result(5)
    core.stop()


def test_a_core_tells_which_samples_it_has_begun(vision_folder):
    core = EngineCore(str(vision_folder), load_model, SchedulerConfig(max_num_seqs=1))
    core.start()
    begun: list[int] = []
    endless, short = SamplingParams.of(**ENDLESS), SamplingParams.of(**GREEDY)
    seen = user_prompt("?", [image()], None, None)
    asked = [("one", endless), ("two", short), ("two", short), (seen, short), (seen, short)]
    futures = core.submit(
        *(Request(*each, on_begin=partial(begun.append, place)) for place, each in enumerate(asked))
    )
    wait_for(lambda: 0 in begun)
    assert sorted(begun) == [0, 3, 4]  # images are read ahead of the batch
    futures[0].cancel()
    wait_for(lambda: all(future.done() for future in futures))
    assert set(begun) == set(range(5))
    core.stop()


# Once


async def test_ten_questions_on_a_video_read_and_see_it_once(batched, files, monkeypatch):
    read: list[Path] = []
    real = reading.read_video

    def counted(path: Path, *args: Any, **options: Any) -> Any:
        read.append(path)
        return real(path, *args, **options)

    monkeypatch.setattr(reading, "read_video", counted)
    path = files / "video.mp4"
    outputs = await asyncio.gather(
        *(batched.generate(f"Question {at}?", videos=[path], **GREEDY) for at in range(10))
    )
    assert len(read) == 1
    assert model_of(batched).features.encoded == 1
    assert sum(output.cached_tokens > 0 for output in outputs) >= 9
    assert len({output.media for output in outputs}) == 1
    for at in (0, 7):
        alone = await batched.generate(f"Question {at}?", videos=[str(path)], **GREEDY)
        assert alone.text == outputs[at].text
    assert len(read) == 1


async def test_a_url_asked_ten_times_at_once_is_fetched_once(batched, slow):
    calls = [
        asyncio.create_task(batched.generate(f"{at}?", images=[slow.url], **GREEDY))
        for at in range(10)
    ]
    await until(lambda: slow.asked)
    slow.open.set()
    outputs = await asyncio.gather(*calls)
    assert len({output.media for output in outputs}) == 1
    assert model_of(batched).features.encoded == 1
    assert slow.asked == 1
    await batched.generate("?", images=[slow.url], **GREEDY)
    assert slow.asked == 2  # what is at an address may change, so it is fetched again


async def test_a_changed_file_is_seen(batched, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(image(1)).save(path)
    first = await batched.generate("What?", images=[path], max_tokens=30, temperature=0)
    Image.fromarray(image(2)).save(path)
    second = await batched.generate("What?", images=[path], max_tokens=30, temperature=0)
    assert first.media[0].hash != second.media[0].hash
    assert first.text != second.text
    Image.fromarray(image(1)).save(path)
    third = await batched.generate("What?", images=[path], max_tokens=30, temperature=0)
    assert (third.text, third.media) == (first.text, first.media)


async def test_the_same_content_under_two_names_is_seen_once(batched, tmp_path):
    for name in ("a.png", "b.png", "c.bmp"):
        Image.fromarray(image(1)).save(tmp_path / name)
    sources = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.bmp", image(1)]
    for source in sources:
        await batched.generate("?", images=[source], **GREEDY)
    assert model_of(batched).features.encoded == 1


async def test_two_images_behind_the_same_text_share_only_the_text(batched):
    text = "Look closely at the image behind this long text, which is the same. " * 2
    contents = [
        [
            {"type": "text", "text": text},
            {"type": "image", "image": image(at)},
            {"type": "text", "text": "?"},
        ]
        for at in (1, 2)
    ]
    messages = [[{"role": "user", "content": content}] for content in contents]
    alone = [await batched.chat(each, max_tokens=30, temperature=0) for each in messages]
    together = await asyncio.gather(
        *(batched.chat(each, max_tokens=30, temperature=0) for each in messages * 2)
    )
    assert [output.text for output in together] == [output.text for output in alone] * 2
    assert alone[0].text != alone[1].text
    start = len(thread_of(batched).parts.loaded.encode([{"role": "user", "content": text}])) - 3
    assert start > 32
    # Its twin may share all of it, but the first of each no more than text.
    assert sorted(output.cached_tokens for output in together)[1] <= start


async def test_samples_of_one_prompt_are_read_once(batched):
    outputs = await batched.generate_samples(
        "?", 9, videos=[clip(3)], max_tokens=4, temperature=1.0, seed=3
    )
    assert model_of(batched).features.encoded == 1
    assert sum(output.cached_tokens > 0 for output in outputs) >= 8


# Bounds


async def test_prepared_media_are_bounded_however_slow_the_engine_is(vision_folder, monkeypatch):
    each = 64 * 64 * 3 * 2 * 4  # bytes of an image's patches
    monkeypatch.setattr(platform, "media_bytes", lambda: 5 * each)
    held: list[int] = []
    hold = MediaStore._hold

    def spy(self: MediaStore[Any], *args: Any) -> None:
        hold(self, *args)
        held.append(self.nbytes)

    monkeypatch.setattr(MediaStore, "_hold", spy)
    async with SimpleEngine(str(vision_folder)) as engine:
        pool = thread_of(engine).parts.media
        at_hand = pool._threads._max_workers
        calls = [
            asyncio.create_task(engine.generate("?", images=[image(at, 64, 64)], **GREEDY))
            for at in range(40)
        ]
        await until(lambda: len(held) > 4)
        assert engine.stats.waiting > 15
        await asyncio.gather(*calls)
        assert len(held) == 40
        assert max(held) <= (5 + at_hand) * each
        await is_idle(engine)
        assert store_of(engine).nbytes <= 5 * each


async def test_pixels_are_bounded_while_they_are_decoded(vision_folder, tmp_path, monkeypatch):
    each = 64 * 64 * 4
    monkeypatch.setattr(platform, "media_bytes", lambda: 2 * each)
    decoding: list[int] = []
    at_hand, lock = [0], threading.Lock()

    def count(change: int) -> None:
        with lock:
            at_hand[0] += change
            decoding.append(at_hand[0])

    read_image = reading.read_image

    def slowly(*args: Any, claim: Any, **named: Any) -> Any:
        def claimed(nbytes: int) -> None:
            claim(nbytes)
            count(1)
            time.sleep(0.01)
            count(-1)

        return read_image(*args, claim=claimed, **named)

    monkeypatch.setattr(reading, "read_image", slowly)
    paths = [tmp_path / f"{at}.png" for at in range(8)]
    for at, path in enumerate(paths):
        Image.fromarray(image(at, 64, 64)).save(path)
    async with BatchedEngine(str(vision_folder)) as engine:
        calls = (engine.generate("?", images=[path], **GREEDY) for path in paths)
        await asyncio.gather(*calls)
        await is_idle(engine)
    assert len(decoding) == 2 * len(paths)
    assert max(decoding) <= 2


async def test_200_requests_leave_nothing(batched, files):
    async def one(at: int) -> Any:
        source = [files / "photo.png", image(at), "gone.png", b"garbage"][at % 4]
        call = asyncio.create_task(
            batched.generate("?", images=[source], request_id=f"r{at}", max_tokens=1 + at % 5)
        )
        if at % 5 == 0:
            await asyncio.sleep(0.002 * (at % 7))
            call.cancel()
        elif at % 5 == 1:
            await asyncio.sleep(0.002 * (at % 7))
            await batched.abort(f"r{at}")
        return (await asyncio.gather(call, return_exceptions=True))[0]

    results = await asyncio.gather(*(one(at) for at in range(200)))
    allowed = (MediaError, RequestAbortedError, asyncio.CancelledError)
    assert all(isinstance(each, allowed) or each.media for each in results)
    await is_idle(batched)
    assert not thread_of(batched).parts.media._groups
    assert not store_of(batched)._pins


async def test_pieces_of_a_prompt_give_what_the_whole_gives(vision_folder):
    asked: list[dict[str, Any]] = [
        {"prompt": "Compare", "images": [image(1), image(2)], "videos": [clip(1)]},
        {"prompt": "Hello"},
        {"prompt": "Move", "videos": [clip(2, 3)]},
    ]
    said = []
    for tokens in (None, 16):
        async with BatchedEngine(str(vision_folder), max_num_batched_tokens=tokens) as engine:
            outputs = await asyncio.gather(
                *(engine.generate(**each, max_tokens=30, temperature=0) for each in asked)
            )
            said.append([output.text for output in outputs])
    assert said[0] == said[1]


async def test_features_evicted_between_pieces_are_computed_again(vision_folder):
    async with BatchedEngine(str(vision_folder), max_num_batched_tokens=16) as engine:
        whole = await engine.generate("?", videos=[clip()], max_tokens=20, temperature=0)
        cache = model_of(engine).features
        cache.clear()
        get, before = cache.get, cache.encoded

        def forgetful(media: Any) -> Any:
            found = get(media)
            cache.clear()
            return found

        cache.get = forgetful
        store_of(engine)._evict()
        again = await engine.generate("?", videos=[clip()], max_tokens=20, temperature=0)
        assert again.text == whole.text
        assert cache.encoded - before > 2


async def test_what_never_fits_is_refused(vision_folder):
    async with BatchedEngine(str(vision_folder), kv_cache_bytes=1 << 20) as engine:
        assert (await engine.generate("Hi", max_tokens=4)).completion_tokens == 4
        with pytest.raises(KVCacheBudgetError, match="kv_cache_bytes"):
            await engine.generate("?", videos=[clip(0, 32)], max_tokens=900)
        await is_idle(engine)
        assert (await engine.generate("Hi", max_tokens=4)).completion_tokens == 4
