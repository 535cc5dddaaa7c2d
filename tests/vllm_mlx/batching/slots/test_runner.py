"""The packing core against sequential mlx-lm, on a tiny random model."""

from __future__ import annotations

import functools
import itertools
import random
import re

import mlx.core as mx
import pytest

from tests.helpers import decoding
from tests.helpers.decoding import (
    VOCAB,
    Poisoned,
    new_scheduler,
    randomize,
    run,
    sequence,
    sequential,
    step,
    tiny_llama,
)
from vllm_mlx.batching.slots.prefill import PrefillBatch
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.errors import EngineError, NonFiniteLogitsError


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


@functools.cache
def _model():
    return tiny_llama()


@functools.cache
def expected(prompt: tuple[int, ...], max_tokens: int) -> list[int]:
    return sequential(_model(), prompt, max_tokens)


def prompt_of(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=length)


@pytest.mark.parametrize("width", [1, 2, 5, 16])
def test_greedy_equals_sequential(model, width):
    draw = random.Random(5)
    wanted = [(prompt_of(i, draw.randint(1, 90)), draw.randint(1, 40)) for i in range(40)]
    scheduler = new_scheduler(model, max_num_seqs=width)
    assert isinstance(scheduler._runner, SlotRunner)
    tokens = run(scheduler, [sequence(str(i), *each) for i, each in enumerate(wanted)])
    assert tokens == [expected(tuple(prompt), limit) for prompt, limit in wanted]


def test_a_row_joins_and_leaves_without_touching_the_others(model):
    scheduler = new_scheduler(model, max_num_seqs=4)
    long = sequence("long", prompt_of(1, 30), 60)
    others = [sequence(str(i), prompt_of(i, 5 + i), 1 + i % 3) for i in range(30)]
    tokens = run(scheduler, [long, *others])
    assert tokens[0] == expected(tuple(prompt_of(1, 30)), 60)
    assert scheduler.stats.steps < 80


def test_the_width_follows_the_job_down(model):
    scheduler = new_scheduler(model, max_num_seqs=16)
    for i in range(16):
        scheduler.add(sequence(str(i), prompt_of(i, 9), 3 + 5 * i))
    widths = []
    while scheduler.has_unfinished:
        step(scheduler)
        widths.append(scheduler.stats.slots)
    assert max(widths) == 16
    assert set(widths) >= {16, 12, 8, 6, 4}
    assert widths[-1] <= 2


@pytest.mark.parametrize("limit", [1, 4])
def test_no_step_is_computed_for_rows_that_all_end_before_it(model, limit):
    scheduler = new_scheduler(model, max_num_seqs=4)
    prompts = [prompt_of(i, 9) for i in range(4)]
    tokens = run(scheduler, [sequence(str(i), each, limit) for i, each in enumerate(prompts)])
    assert tokens == [expected(tuple(each), limit) for each in prompts]
    assert scheduler.stats.steps == limit


def test_prefill_is_cut_so_that_decoding_rows_do_not_wait(model):
    scheduler = new_scheduler(model, max_num_seqs=4, max_num_batched_tokens=16)
    decoding_row = sequence("first", prompt_of(1, 4), 40)
    scheduler.add(decoding_row)
    while not decoding_row.output_tokens:
        step(scheduler)
    before = len(decoding_row.output_tokens)
    late = sequence("late", prompt_of(2, 161), 1)
    scheduler.add(late)
    while not late.output_tokens:
        step(scheduler)
    # 160 tokens are ten pieces of 16; a token of the other row came with each.
    assert len(decoding_row.output_tokens) - before >= 10


def test_an_id_may_come_again_while_its_first_owner_is_in_prefill(model):
    scheduler = new_scheduler(model, max_num_seqs=2, max_num_batched_tokens=8)
    first = sequence("same", prompt_of(1, 60), 5)
    scheduler.add(first)
    step(scheduler)
    scheduler.remove("same")
    second = sequence("same", prompt_of(2, 30), 5)
    assert run(scheduler, [second]) == [expected(tuple(prompt_of(2, 30)), 5)]
    assert not first.output_tokens
    assert not scheduler._runner._running


def test_aborted_prompts_are_not_computed(model):
    scheduler = new_scheduler(model, max_num_seqs=8, max_num_batched_tokens=16)
    for i in range(8):
        scheduler.add(sequence(str(i), prompt_of(i, 200), 5))
    step(scheduler)
    for i in range(8):
        scheduler.remove(str(i))
    late = sequence("late", prompt_of(20, 9), 3)
    scheduler.add(late)
    steps = 0
    while not late.output_tokens:
        step(scheduler)
        steps += 1
    assert steps < 30  # what had begun is finished, 13 pieces a row; the rest is not
    assert run(scheduler, []) == []
    assert late.output_tokens == expected(tuple(prompt_of(20, 9)), 3)


def test_padding_is_counted(model):
    scheduler = new_scheduler(model, max_num_seqs=4)
    run(scheduler, [sequence(str(i), prompt_of(i, length), 2) for i, length in enumerate((9, 11))])
    # Computed together: eight and ten tokens, the last of each is decoded.
    assert scheduler.stats.padding_tokens == 2
    assert scheduler.stats.prompt_tokens == 20


def test_prompt_tokens_count_as_they_are_computed(model):
    scheduler = new_scheduler(model, max_num_seqs=4, max_num_batched_tokens=16)
    shared = prompt_of(5, 48)
    rows = [sequence(str(i), shared + prompt_of(i, 33), 2) for i in range(3)]
    for each in rows:
        scheduler.add(each)
    counts = []
    while scheduler.has_unfinished:
        step(scheduler)
        stats = scheduler.stats
        counts.append((stats.prompt_tokens, stats.cached_tokens))
    # Three pieces of the prefix; a piece counts in the step that waits for it.
    assert counts[:4] == [(0, 0), (16, 0), (32, 0), (48, 0)]
    computed = [prompt - cached for prompt, cached in counts]
    assert max(b - a for a, b in itertools.pairwise(computed)) <= 16 + 1  # one is decoded
    assert counts[-1] == (3 * 81, 2 * 48)


def test_work_that_a_failed_step_undid_is_counted_again(model, monkeypatch):
    launch = SlotRunner._launch

    def break_two(self, *given):
        if len(self._running) > 1 and any(row.output_tokens for row in self._running.values()):
            raise RuntimeError("the kernel failed")
        return launch(self, *given)

    scheduler = new_scheduler(model, max_num_seqs=2)
    monkeypatch.setattr(SlotRunner, "_launch", break_two)
    run(scheduler, [sequence(str(i), prompt_of(i, 9), 5) for i in range(2)])
    assert scheduler.stats.prompt_tokens == 2 * (9 + 9)
    assert scheduler.stats.completion_tokens == 2 * (1 + 5)


def test_shared_prefixes_are_computed_once(model):
    shared = prompt_of(5, 100)
    wanted = [shared + prompt_of(i, 10 + i) for i in range(6)] + [prompt_of(77, 40)]
    scheduler = new_scheduler(model, max_num_seqs=3)
    sequences = [sequence(str(i), prompt, 5) for i, prompt in enumerate(wanted)]
    tokens = run(scheduler, sequences)
    assert tokens == [expected(tuple(prompt), 5) for prompt in wanted]
    cached = [each.cached_tokens for each in sequences]
    assert cached[-1] == 0
    # Whole blocks of 16 are shared; one of the six computed them.
    assert sorted(cached[:-1]) == [0, 96, 96, 96, 96, 96]
    assert scheduler.stats.cached_tokens == sum(cached)


def test_prefixes_within_prefixes(model):
    system, one, other = prompt_of(5, 64), prompt_of(6, 64), prompt_of(7, 64)
    wanted = [system + document + prompt_of(i, 9) for i in range(4) for document in (one, other)]
    scheduler = new_scheduler(model, max_num_seqs=8)
    sequences = [sequence(str(i), prompt, 4) for i, prompt in enumerate(wanted)]
    assert run(scheduler, sequences) == [expected(tuple(prompt), 4) for prompt in wanted]
    computed = sum(len(each.prompt_tokens) - each.cached_tokens for each in sequences)
    assert computed == 64 + 2 * 64 + 8 * 9


def test_equal_prompts_share_all_but_the_last_token(model):
    prompt = prompt_of(3, 75)
    sequences = [sequence(str(i), prompt, 12, temperature=1.5, top_p=1.0, seed=i) for i in range(6)]
    tokens = run(new_scheduler(model, max_num_seqs=8), sequences)
    assert sorted(each.cached_tokens for each in sequences) == [0, 74, 74, 74, 74, 74]
    assert len({tuple(each) for each in tokens}) == 6


def test_a_prefix_stays_for_those_who_come_later(model):
    shared = prompt_of(5, 64)
    scheduler = new_scheduler(model, max_num_seqs=2)
    run(scheduler, [sequence(str(i), shared + prompt_of(i, 5), 2) for i in range(2)])
    late = sequence("late", shared + prompt_of(9, 8), 3)
    assert run(scheduler, [late]) == [expected(tuple(shared + prompt_of(9, 8)), 3)]
    assert late.cached_tokens == 64


def test_seeded_rows_do_not_depend_on_order_or_neighbours(model):
    def tokens_in(order, width):
        settings = [
            {"temperature": 0.0},
            {"temperature": 0.7, "top_p": 0.9},
            {"temperature": 1.0, "top_k": 5, "top_p": 1.0},
            {"temperature": 1.3, "min_p": 0.05, "repetition_penalty": 1.2},
            {"temperature": 2.0, "top_p": 1.0},
        ]
        sequences = [
            sequence(str(i), prompt_of(i, 3 + i % 20), 8 + i % 9, seed=i, **settings[i % 5])
            for i in range(40)
        ]
        run(new_scheduler(model, max_num_seqs=width), [sequences[i] for i in order])
        return [each.output_tokens for each in sequences]

    order = list(range(40))
    first = tokens_in(order, 8)
    random.Random(1).shuffle(order)
    assert tokens_in(order, 8) == first
    assert tokens_in(order, 5) == first


@pytest.mark.parametrize("window", [1, 2])
def test_nothing_starves(model, monkeypatch, window):
    """A short row that came first is admitted before anything beyond its window."""
    from vllm_mlx.batching import scheduler as module

    monkeypatch.setattr(module, "WINDOW", window)
    scheduler = new_scheduler(model, max_num_seqs=2)
    short = sequence("short", prompt_of(0, 4), 1)
    scheduler.add(short)
    longer = [sequence(str(i), prompt_of(i, 4), 20) for i in range(12)]
    for each in longer:
        scheduler.add(each)
    while not short.future.done():
        step(scheduler)
    started = [each for each in longer if each.output_tokens]
    assert len(started) <= 2 * window


def test_a_long_row_after_short_ones_gets_a_ring_of_its_own_size(model):
    budget = 2600 * decoding.BYTES_PER_TOKEN
    scheduler = new_scheduler(model, max_num_seqs=2, kv_cache_bytes=budget)
    run(scheduler, [sequence(str(i), prompt_of(i, 20), 9) for i in range(2)])
    long = sequence("long", prompt_of(5, 500), 400)
    scheduler.add(long)
    while scheduler.has_unfinished:
        step(scheduler)
        assert scheduler.stats.kv_cache_bytes <= budget
    assert long.output_tokens == expected(tuple(prompt_of(5, 500)), 400)


def test_what_never_fits_is_refused_with_its_numbers(model):
    scheduler = new_scheduler(model, kv_cache_bytes=2000 * decoding.BYTES_PER_TOKEN)
    assert scheduler._runner.refusal(100, 100) is None
    refusal = scheduler._runner.refusal(900, 700)
    assert refusal is not None
    for number in ("900 prompt tokens", "max_tokens=700", f"{2000 * decoding.BYTES_PER_TOKEN:,}"):
        assert number in refusal
    needed = re.search(r"need ([\d,]+) bytes", refusal)
    assert needed is not None
    enough = int(needed[1].replace(",", ""))
    assert new_scheduler(model, kv_cache_bytes=enough)._runner.refusal(900, 700) is None
    less = enough - 8 * decoding.BYTES_PER_TOKEN
    assert new_scheduler(model, kv_cache_bytes=less)._runner.refusal(900, 700) is not None


def test_logits_that_are_not_finite_fail_one_row_and_poison_no_heir(model):
    clean = [[t for t in prompt_of(i, 12) if t != 7] for i in range(12)]
    scheduler = new_scheduler(Poisoned(model), max_num_seqs=3)
    # Token 7 comes last, so that it is decoded beside others, not in the prompt's prefill.
    bad = [sequence(f"bad {i}", [*prompt, 7], 9) for i, prompt in enumerate(clean[:3])]
    good = [sequence(str(i), prompt, 6) for i, prompt in enumerate(clean)]
    for each in [*bad, *good]:
        scheduler.add(each)
    while scheduler.has_unfinished:
        step(scheduler)
    for each in bad:
        assert isinstance(each.future.exception(0), NonFiniteLogitsError)
    for each, prompt in zip(good, clean, strict=True):
        reference = expected(tuple(prompt), 6)
        if 7 in reference:
            at = reference.index(7)
            assert each.output_tokens[: at + 1] == reference[: at + 1]
        else:
            assert each.output_tokens == reference


def test_a_step_that_raises_fails_only_the_row_that_breaks_it(model, monkeypatch):
    launch = SlotRunner._launch

    def break_on_bad(self, *given):
        if any(each.request_id == "bad" for each in self._running.values()):
            raise RuntimeError("the kernel failed")
        return launch(self, *given)

    monkeypatch.setattr(SlotRunner, "_launch", break_on_bad)
    scheduler = new_scheduler(model, max_num_seqs=4)
    sequences = [sequence(str(i), prompt_of(i, 6), 5) for i in range(5)]
    bad = sequence("bad", prompt_of(9, 6), 5)
    for each in [*sequences[:2], bad, *sequences[2:]]:
        scheduler.add(each)
    while scheduler.has_unfinished:
        step(scheduler)
    assert isinstance(bad.future.exception(0), EngineError)
    for i, each in enumerate(sequences):
        assert each.output_tokens == expected(tuple(prompt_of(i, 6)), 5)


def test_a_prompt_that_raises_leaves_those_that_decode(model, monkeypatch):
    advance = PrefillBatch.advance

    def break_on_bad(self, *given):
        if any(getattr(row.target, "request_id", "") == "bad" for row in self.rows):
            raise RuntimeError("the tower failed")
        return advance(self, *given)

    monkeypatch.setattr(PrefillBatch, "advance", break_on_bad)
    scheduler = new_scheduler(model, max_num_seqs=4)
    streaming = sequence("streaming", prompt_of(0, 6), 30)
    streaming.on_chunk = lambda chunk: None
    scheduler.add(streaming)
    while not streaming.output_tokens:
        step(scheduler)
    shared = prompt_of(5, 100)  # so that prefixes fail beside rows
    beside = [sequence(str(i), [*shared, i], 5) for i in range(3)]
    bad = sequence("bad", [*shared, 9], 5)
    for each in [*beside[:1], bad, *beside[1:]]:
        scheduler.add(each)
    while scheduler.has_unfinished:
        step(scheduler)
    assert streaming.output_tokens == expected(tuple(prompt_of(0, 6)), 30)
    assert isinstance(bad.future.exception(0), EngineError)
    for i, each in enumerate(beside):
        assert each.output_tokens == expected((*shared, i), 5)
    held = scheduler._runner
    assert not any([held._needs, held._running, held._prefills.batches, held._prefills.cancelled])
    assert all(prefix.users == 0 for prefix in held._prefixes._prefixes.values())


def test_logprobs_are_those_of_the_model(model):
    prompt = prompt_of(2, 14)
    plain = sequence("plain", prompt_of(8, 5), 6)
    asked = sequence("asked", prompt, 6, logprobs=3)
    none_of_the_top = sequence("chosen only", prompt, 6, logprobs=0)
    run(new_scheduler(model, max_num_seqs=4), [plain, asked, none_of_the_top])
    assert plain.future.result().logprobs is None
    got = asked.future.result().logprobs
    assert got is not None
    assert len(got) == 6
    tokens = list(prompt)
    for entry, token in zip(got, asked.output_tokens, strict=True):
        logits = model(mx.array([tokens]))[0, -1]
        logprobs = logits - mx.logsumexp(logits)
        likeliest = mx.argsort(-logprobs)[:3].tolist()
        assert entry.token_id == token
        assert entry.logprob == pytest.approx(float(logprobs[token]), abs=1e-4)
        assert [top.token_id for top in entry.top] == likeliest
        assert [top.logprob for top in entry.top] == pytest.approx(
            [float(logprobs[t]) for t in likeliest], abs=1e-4
        )
        tokens.append(token)
    chosen = none_of_the_top.future.result().logprobs
    assert chosen is not None
    assert [entry.logprob for entry in chosen] == pytest.approx([e.logprob for e in got], abs=1e-4)
    assert all(entry.top == () for entry in chosen)


def test_repetition_ends_a_row_that_asked_for_it():
    dull = randomize(tiny_llama(), scale=0.01)  # says one token for ever
    stops = sequence("stops", prompt_of(1, 5), 160, stop_on_repetition=True)
    goes_on = sequence("goes on", prompt_of(1, 5), 160)
    run(new_scheduler(dull, max_num_seqs=2), [stops, goes_on])
    assert stops.future.result().finish_reason == "repetition"
    assert 64 <= stops.future.result().completion_tokens < 160
    assert goes_on.future.result().finish_reason == "length"
    assert goes_on.output_tokens[: len(stops.output_tokens)] == stops.output_tokens
