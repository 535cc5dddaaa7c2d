"""Rows join, leave and grow in any order, and are answered as mlx-lm answers each alone."""

from __future__ import annotations

import functools
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.architectures import KINDS, VOCAB
from tests.helpers.decoding import new_scheduler, sequential
from tests.helpers.exactness import Row, play, ties
from tests.helpers.sizes import sizes
from tests.helpers.text_folders import new_model
from vllm_mlx.batching.slots import keys_values, ring, runner
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.models.accelerated import accelerate


@functools.cache
def model_of(kind: str):
    return accelerate(new_model(KINDS[kind]))


@functools.cache
def expected(kind: str, prompt: tuple[int, ...], max_tokens: int) -> list[int]:
    return sequential(model_of(kind), prompt, max_tokens)


def prompt_of(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=length)


@st.composite
def jobs(draw):
    """Prompts that begin alike or not, when they come, and when they are aborted."""
    rows = []
    for _ in range(draw(st.integers(1, 10))):
        shared = draw(st.sampled_from([0, 0, 17, 48, 50]))
        own = draw(st.integers(1, 25))
        prompt = prompt_of(99, shared) + prompt_of(draw(st.integers(0, 3)), own)
        limit = draw(st.integers(1, 30))
        comes = draw(st.integers(0, 30))
        rows.append(Row(prompt, limit, comes, draw(st.none() | st.integers(comes, 40))))
    return rows


DRAWN = {
    "rows": jobs(),
    "width": st.integers(1, 6),
    "most": st.integers(5, 60),
    "start": st.integers(0, 9),
    "scattered": st.sampled_from([0, 20, 512]),
    "window_step": st.sampled_from([1, 3, 16]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("examples", sizes(8, 60))
def test_any_order_of_joins_leaves_and_growth(kind, examples):
    options = settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck)
    )
    options(given(kind=st.just(kind), **DRAWN)(assert_exact))()


def assert_exact(kind, rows, width, most, start, scattered, window_step):
    model = model_of(kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys_values, "SCATTERED", scattered)
        patch.setattr(ring, "COLUMN_STEP", 8)  # grows often, and wraps around often
        patch.setattr(runner, "COLUMN_STEP", 8)
        patch.setattr(ring, "WINDOW_STEP", window_step)
        scheduler = new_scheduler(
            model, vocab_size=VOCAB, max_num_seqs=width, max_num_batched_tokens=most
        )
        held = scheduler._runner
        assert isinstance(held, SlotRunner)
        for window in {None, *held._layout.windows}:
            held._rings[window].step = start
        found = play(scheduler, rows)
    ties(model, rows, found, [expected(kind, tuple(row.prompt), row.limit) for row in rows])
    assert not held._running
    assert not held._needs
    assert not held._prefixes._waiting
