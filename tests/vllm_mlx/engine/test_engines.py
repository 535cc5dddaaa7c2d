"""Both engines: what they say on the real model, all else on a tiny one."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from tests.helpers.decoding import CONTEXT_LENGTH, ENDLESS
from tests.helpers.engines import until
from vllm_mlx.batching.request import Request
from vllm_mlx.engine import BatchedEngine, SimpleEngine
from vllm_mlx.errors import (
    EngineError,
    EngineStoppedError,
    InvalidRequestError,
    KVCacheBudgetError,
    ModelLoadError,
    RequestAbortedError,
)
from vllm_mlx.sampling_params import SamplingParams

MODEL = "smollm2-135m"
PROMPTS = [
    "The capital of France is",
    "Water boils at",
    "Once upon a time",
    "Two plus two is",
    "The opposite of hot is",
    "My favourite colour is",
]
TOO_LONG = "word " * CONTEXT_LENGTH
CHAT = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module", params=[SimpleEngine, BatchedEngine])
def engine(request, text_folder):
    engine = request.param(text_folder)
    yield engine
    engine._core.stop()


@pytest.fixture(scope="module")
def batched(text_folder):
    engine = BatchedEngine(text_folder, max_num_seqs=4)
    yield engine
    engine._core.stop()


@pytest.mark.parametrize("kind", [SimpleEngine, BatchedEngine])
async def test_generate_and_chat(kind):
    async with kind(MODEL) as engine:
        prompt = "The capital of France is"
        output = await engine.generate(prompt=prompt, max_tokens=5, temperature=0)
        assert "Paris" in output.text
        answer = await engine.chat(CHAT, max_tokens=30, temperature=0)
        assert answer.text == "The capital of France is Paris."


async def test_batched_equals_sequential(batched):
    limits = [5, 24, 11, 17, 3, 30]
    asked = list(zip(PROMPTS, limits, strict=True))
    alone = [await batched.generate(*each, temperature=0) for each in asked]
    together = await asyncio.gather(*(batched.generate(*each, temperature=0) for each in asked))
    assert [output.text for output in together] == [output.text for output in alone]
    assert [output.completion_tokens for output in together] == limits


async def test_an_end_token_ends_its_row_of_a_batch(batched):
    async def says(prompt: str) -> list[int]:
        output = await batched.generate(prompt, 30, temperature=0, logprobs=0)
        return [entry.token_id for entry in output.logprobs]

    free = [await says(prompt) for prompt in PROMPTS]
    ends = batched.tokenizer.eos_token_ids
    ends.add(end := free[-1][10])
    together = await asyncio.gather(*map(says, PROMPTS))
    ends.remove(end)
    cut = [tokens[: [*tokens, end].index(end) + 1] for tokens in free]
    assert together == cut
    assert len(cut[-1]) <= 11 < max(map(len, cut))


async def test_concurrent_calls_share_the_steps(batched):
    before = batched.stats
    outputs = await asyncio.gather(
        *(batched.generate(p, max_tokens=20, temperature=0) for p in PROMPTS[:4])
    )
    tokens = sum(output.completion_tokens for output in outputs)
    assert batched.stats.completion_tokens - before.completion_tokens == tokens
    assert tokens > 60
    assert batched.stats.steps - before.steps < 40  # one after the other, it is one a token


async def test_each_row_has_its_own_sampling(batched):
    greedy = (await batched.generate(PROMPTS[0], max_tokens=12, temperature=0)).text
    hot = {"max_tokens": 12, "temperature": 2.0, "top_p": 1.0}
    seeded = (await batched.generate(PROMPTS[1], **hot, seed=7)).text
    outputs = await asyncio.gather(
        batched.generate(PROMPTS[1], **hot, seed=7),
        batched.generate(PROMPTS[0], max_tokens=12, temperature=0),
        batched.generate(PROMPTS[0], **hot, seed=8),
    )
    assert outputs[1].text == greedy
    assert outputs[2].text != greedy
    assert outputs[0].text == seeded


async def test_stop_strings_are_per_row(batched):
    free = (await batched.generate("1 2 3 4", max_tokens=16, temperature=0)).text
    stop = free[5:8]
    stopped, other = await asyncio.gather(
        batched.generate("1 2 3 4", max_tokens=16, temperature=0, stop=stop),
        batched.generate("1 2 3 4", max_tokens=16, temperature=0),
    )
    assert stopped.text == free[: free.index(stop)]
    assert other.text == free


async def test_a_stream_joined_is_the_text(engine):
    options = {"max_tokens": 16, "seed": 3}
    chunks = [chunk async for chunk in engine.stream_generate("Once upon a time", **options)]
    whole = await engine.generate("Once upon a time", **options)
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert chunks[-1].finish_reason == "length"
    assert chunks[-1].completion_tokens == 16


@pytest.mark.parametrize("options", [{"max_tokens": -1}, {"temperature": 9.0}, {"stopp": "x"}])
async def test_wrong_values_raise(engine, options):
    with pytest.raises(InvalidRequestError):
        await engine.generate("x", **options)
    with pytest.raises(InvalidRequestError):
        await anext(engine.stream_generate("x", **options))


async def test_one_bad_prompt_leaves_the_others_alone(batched):
    results = await asyncio.gather(
        batched.generate(PROMPTS[0], max_tokens=4, temperature=0),
        batched.generate("", max_tokens=4),
        batched.generate(TOO_LONG, max_tokens=4),
        batched.generate(PROMPTS[1], max_tokens=4, temperature=0),
        return_exceptions=True,
    )
    assert isinstance(results[1], InvalidRequestError)
    assert isinstance(results[2], InvalidRequestError)
    assert results[0].text
    assert results[3].text


async def test_a_cancelled_call_frees_its_place(batched):
    tasks = [
        asyncio.create_task(batched.generate("Once upon a time", **ENDLESS))
        for _ in range(4)  # all the places there are
    ]
    await until(lambda: batched.stats.running == 4)
    for task in tasks:
        task.cancel()
    output = await asyncio.wait_for(batched.generate(PROMPTS[0], max_tokens=2), timeout=20)
    assert output.completion_tokens == 2
    for task in tasks:
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (batched.stats.running, batched.stats.waiting) == (0, 0)


async def test_leaving_a_stream_frees_its_place(text_folder):
    async with SimpleEngine(text_folder) as engine:
        stream = engine.stream_generate("Once upon a time", **ENDLESS)
        await anext(stream)
        await stream.aclose()
        await asyncio.wait_for(engine.generate(PROMPTS[0], max_tokens=2), timeout=20)


async def test_abort_ends_the_call(engine):
    task = asyncio.create_task(engine.generate("Hello", request_id="mine", **ENDLESS))
    await until(lambda: engine.stats.running)
    await engine.abort("mine")
    await engine.abort("unknown")
    with pytest.raises(RequestAbortedError, match="mine"):
        await asyncio.wait_for(task, timeout=20)


async def test_two_requests_of_one_name_are_refused(batched):
    task = asyncio.create_task(batched.generate("Hello", request_id="twin", **ENDLESS))
    await until(lambda: batched.stats.running)
    with pytest.raises(InvalidRequestError, match="twin"):
        await batched.generate("Hello", max_tokens=2, request_id="twin")
    await batched.abort("twin")
    with pytest.raises(RequestAbortedError):
        await task


async def test_cancelling_a_refused_twin_leaves_the_first_alone(batched):
    await batched.start()
    params = SamplingParams.of(max_tokens=20, temperature=0)
    twin = Request("Hello", params, "twin")
    (first,) = batched._core.submit(twin)
    batched._core.submit(twin)[0].cancel()
    assert first.result(20).finish_reason is not None


async def test_a_name_is_free_once_its_request_is_cancelled(batched):
    await batched.start()
    params = SamplingParams.of(max_tokens=2, temperature=0)
    for _ in range(20):
        assert batched._core.submit(Request("Hello", params, "again"))[0].cancel()
    (future,) = batched._core.submit(Request("Hello", params, "again"))
    assert future.result(20).completion_tokens == 2


async def test_stop_wakes_waiting_calls(text_folder):
    engine = SimpleEngine(text_folder)
    await engine.start()
    calls = [asyncio.create_task(engine.generate("Hello", **ENDLESS)) for _ in range(3)]
    await until(lambda: engine.stats.running)
    await engine.stop()
    for call in calls:
        with pytest.raises(EngineStoppedError):
            await asyncio.wait_for(call, timeout=10)
    with pytest.raises(EngineStoppedError):
        await engine.generate("Hello")
    await engine.start()
    assert (await engine.generate("Hello", max_tokens=1)).completion_tokens == 1
    await engine.stop()


@pytest.mark.parametrize("kind", [SimpleEngine, BatchedEngine])
async def test_stop_while_the_first_call_loads_stops(kind):
    engine = kind(MODEL)
    calls = [asyncio.create_task(engine.generate("Hello", max_tokens=300)) for _ in range(3)]
    await asyncio.sleep(0.1)
    await engine.stop()
    for call in calls:
        with pytest.raises(EngineStoppedError):
            await asyncio.wait_for(call, timeout=20)
    assert not engine._core.is_running


async def test_a_long_prompt_that_is_cancelled_frees_its_place_soon(text_folder):
    async with BatchedEngine(text_folder, max_num_batched_tokens=8) as engine:
        call = asyncio.create_task(engine.generate("x " * 8000, max_tokens=5))
        while not engine.stats.prompt_tokens:
            await asyncio.sleep(0.01)
        call.cancel()
        await engine.generate("Hi", max_tokens=2)
        assert engine.stats.prompt_tokens < 4000


async def test_load_and_step_happen_on_one_thread(monkeypatch, text_folder):
    import vllm_mlx.engine.base as base
    from vllm_mlx.batching.slots.runner import SlotRunner
    from vllm_mlx.models.loading import load_model

    threads = set()

    def load(name, **options):
        threads.add(threading.get_ident())
        return load_model(name, **options)

    step = SlotRunner.step

    def spy(self):
        threads.add(threading.get_ident())
        return step(self)

    monkeypatch.setattr(base, "load_model", load)
    monkeypatch.setattr(SlotRunner, "step", spy)
    async with BatchedEngine(text_folder) as engine:
        await asyncio.gather(*(engine.generate(p, max_tokens=3) for p in PROMPTS))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


async def test_a_row_that_breaks_the_model_fails_alone(batched, monkeypatch):
    from vllm_mlx.batching.slots.runner import SlotRunner

    poison = "The poisoned prompt"
    step = SlotRunner.step

    def break_on_poison(self):
        tokens = batched._core.loaded.encode(poison)
        if any(sequence.prompt_tokens == tokens for sequence in self._running.values()):
            raise RuntimeError("the kernel failed")
        return step(self)

    expected = [(await batched.generate(p, max_tokens=6, temperature=0)).text for p in PROMPTS]
    monkeypatch.setattr(SlotRunner, "step", break_on_poison)
    results = await asyncio.gather(
        batched.generate(poison, max_tokens=6, temperature=0),
        *(batched.generate(p, max_tokens=6, temperature=0) for p in PROMPTS),
        return_exceptions=True,
    )
    assert isinstance(results[0], EngineError)
    assert "the kernel failed" in str(results[0])
    assert [output.text for output in results[1:]] == expected


async def test_samples_of_one_prompt_differ_and_are_repeatable(batched):
    options = {"max_tokens": 12, "temperature": 1.0, "seed": 3}
    prompt = "Once upon a time there was a king who had " * 6
    samples = await batched.generate_samples(prompt, 4, **options)
    assert len({sample.text for sample in samples}) == 4
    assert samples[0].text == (await batched.generate(prompt, **options)).text
    again = await batched.generate_samples(prompt, 4, **options)
    assert [sample.text for sample in again] == [sample.text for sample in samples]
    assert sum(sample.cached_tokens == sample.prompt_tokens - 1 for sample in again) >= 3
    for n, wrong in ((0, {}), (2, {"temperature": 0})):
        with pytest.raises(InvalidRequestError, match=f"n={n}"):
            await batched.generate_samples(prompt, n, **wrong)


async def test_what_is_asked_at_once_shares_its_prefill_and_fails_alone(batched, monkeypatch):
    await batched.start()
    core = batched._core
    encoded = []
    encode = type(core.loaded).encode

    def spy(self, prompt, *arguments, **options):
        encoded.append(prompt)
        return encode(self, prompt, *arguments, **options)

    monkeypatch.setattr(type(core.loaded), "encode", spy)
    prompt = "Seven sailors set sail for the southern seas to search for silver. " * 4
    three = [SamplingParams.of(max_tokens=4, temperature=1.0, seed=seed) for seed in range(3)]
    one = SamplingParams.of(max_tokens=4, temperature=0)
    others = ["", TOO_LONG, prompt + "They"]
    asked = [*(Request(prompt, each) for each in three), *(Request(each, one) for each in others)]
    *samples, empty, long, other = core.submit(*asked)
    assert encoded == [prompt, *others]
    assert isinstance(empty.exception(20), InvalidRequestError)
    assert isinstance(long.exception(20), InvalidRequestError)
    cached = [future.result(20).cached_tokens for future in (*samples, other)]
    assert sorted(cached)[0] == 0
    assert sorted(cached)[1] > 32


LIMITS = [5, 20, 5, 40, 2]


async def test_calls_are_first_come_first_served(vision_folder):
    ended = []

    async def call(limit: int) -> None:
        await engine.generate("Once", max_tokens=limit, temperature=0)
        ended.append(limit)

    engine = SimpleEngine(str(vision_folder))
    await asyncio.gather(*map(call, LIMITS))
    assert ended == LIMITS
    ended.clear()

    async def call_for_two(limit: int) -> None:
        await engine.generate(["Once", "Twice"], max_tokens=limit, temperature=0)
        ended.append(limit)

    await asyncio.gather(*map(call_for_two, LIMITS))
    assert ended == LIMITS
    await engine.stop()


async def test_the_longest_of_many_that_are_asked_at_once_start_first(vision_folder):
    async with SimpleEngine(str(vision_folder)) as engine:
        begun: list[int] = []
        requests = [
            Request(
                f"Once {at}",
                SamplingParams.of(max_tokens=limit),
                on_begin=partial(begun.append, limit),
            )
            for at, limit in enumerate(LIMITS)
        ]
        for future in [engine._core.submit(request)[0] for request in requests]:
            future.result(20)
        assert begun == LIMITS
        begun.clear()
        for future in engine._core.submit(*requests):
            future.result(20)
        assert begun == [40, 20, 5, 5, 2]


async def test_logprobs_name_their_tokens(batched):
    output = await batched.generate(PROMPTS[0], max_tokens=3, temperature=0, logprobs=2)
    assert output.logprobs is not None
    assert "".join(entry.token for entry in output.logprobs) == output.text
    assert all(entry.top[0].token == entry.token for entry in output.logprobs)
    chunks = [
        chunk
        async for chunk in batched.stream_generate(
            PROMPTS[0], max_tokens=3, temperature=0, logprobs=2
        )
    ]
    streamed = [entry for chunk in chunks for entry in chunk.logprobs]
    for first, second in zip(output.logprobs, streamed, strict=True):
        assert (first.token_id, first.token) == (second.token_id, second.token)
        assert [each.token_id for each in first.top] == [each.token_id for each in second.top]
        # The batch may be wider the second time, whose sums are rounded otherwise.
        for one, other in zip((first, *first.top), (second, *second.top), strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


async def test_what_can_never_fit_is_refused_with_its_numbers(text_folder):
    async with BatchedEngine(text_folder, kv_cache_bytes=512 << 10) as engine:
        with pytest.raises(KVCacheBudgetError, match=r"max_tokens=4000.*524,288"):
            await engine.generate(PROMPTS[0], max_tokens=4000)
        assert (await engine.generate(PROMPTS[0], max_tokens=2)).completion_tokens == 2
        assert engine.stats.kv_cache_bytes <= 512 << 10


@pytest.mark.parametrize("name", ["max_num_seqs", "max_num_batched_tokens", "kv_cache_bytes"])
def test_bounds_are_positive_integers(name):
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(InvalidRequestError, match=name):
            BatchedEngine(MODEL, **{name: wrong})


async def test_a_model_that_is_not_there_raises(engine):
    with pytest.raises(ModelLoadError):
        async with type(engine)("invalid-model"):
            pass
