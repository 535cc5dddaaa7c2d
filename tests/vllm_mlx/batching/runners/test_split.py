"""`SplitRunner`: rows of text don't wait for those with images, which run one at a time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.helpers import decoding
from tests.helpers.decoding import (
    NullDetokenizer,
    new_scheduler,
    run,
    sequence,
    sequential,
    step,
    tiny_llama,
)
from tests.helpers.vision_folders import VOCAB, write_folder
from vllm_mlx.batching.prompts.prompt import user_prompt
from vllm_mlx.batching.request import Request
from vllm_mlx.batching.runners.make_runner import make_runner
from vllm_mlx.batching.runners.one_by_one import text_runner
from vllm_mlx.batching.runners.split import SplitRunner
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.errors import EngineError
from vllm_mlx.media.policy import UNRESTRICTED
from vllm_mlx.models.vision.loading import load_vision
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("models"), "llava_next")
    model, _, _, seeing = load_vision(Path(folder), False)
    return model, seeing["new_preparer"](UNRESTRICTED)


@pytest.fixture
def scheduler(loaded):
    made = new_scheduler(loaded[0], vocab_size=VOCAB, max_num_seqs=4)
    assert isinstance(made._runner, SplitRunner)
    return made


@pytest.fixture
def seeing(loaded):
    """Makes a row with an image."""

    def make(name: str, max_tokens: int, seed: int = 0) -> Sequence:
        picture = np.random.default_rng(seed).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        tokens, media = loaded[1].prepare(user_prompt("What is it?", [picture], None, None))
        params = SamplingParams.of(temperature=0.0)
        return Sequence(
            Request("", params, name),
            tokens,
            max_tokens=max_tokens,
            model="",
            new_detokenizer=NullDetokenizer,
            media=media,
        )

    return make


def text(name: str, max_tokens: int) -> Sequence:
    return sequence(name, list(b"What is it?"), max_tokens)


def test_text_ends_while_an_image_is_still_answered(scheduler, seeing):
    image, plain = seeing("image", 30), text("text", 4)
    for each in (image, plain):
        scheduler.add(each)
    while not plain.future.done():
        step(scheduler)
    assert 0 < len(image.output_tokens) < 10
    assert not image.future.done()
    run(scheduler, [])


def test_answers_are_those_of_rows_alone(scheduler, seeing):
    def rows() -> list[Sequence]:
        images = [seeing(f"image {seed}", 5 + seed, seed) for seed in range(3)]
        return [each for at, image in enumerate(images) for each in (image, text(f"{at}", 9))]

    alone = [run(scheduler, [row])[0] for row in rows()]
    assert run(scheduler, rows()) == alone
    assert len({tuple(tokens[:5]) for tokens in alone}) > 2, "images make a difference"


def test_a_row_that_waits_or_runs_can_be_taken_out(scheduler, seeing):
    running, waiting, last = (seeing(name, 50) for name in "abc")
    for each in (running, waiting, last):
        scheduler.add(each)
    step(scheduler)
    step(scheduler)
    assert scheduler.remove("b") is waiting
    assert scheduler.remove("a") is running
    while scheduler.has_unfinished:
        step(scheduler)
    assert len(last.output_tokens) == 50
    assert not waiting.output_tokens


def test_an_image_that_breaks_the_model_fails_alone(scheduler, seeing):
    broken, image, plain = seeing("broken", 5), seeing("image", 5), text("text", 20)
    broken.media.inputs = dict
    for each in (broken, image, plain):
        scheduler.add(each)
    while scheduler.has_unfinished:
        step(scheduler)
    assert isinstance(broken.future.exception(0), EngineError)
    assert image.future.result(0).completion_tokens == 5
    assert plain.future.result(0).completion_tokens == 20


class FailsOnce:
    """A model that raises over the first prompt after `fails` was set."""

    def __init__(self, model):
        self._model = model
        self.layers = model.layers
        self.fails = False

    def __call__(self, tokens, cache=None):
        if self.fails and tokens.shape[1] > 1:
            self.fails = False
            raise ValueError("once")
        return self._model(tokens, cache=cache)


def test_a_row_that_sees_loses_no_token_to_prompts_of_text_that_fail():
    model = tiny_llama()
    failing = FailsOnce(model)
    config = SchedulerConfig(max_num_seqs=4)
    texts = make_runner(failing, vocab_size=decoding.VOCAB, config=config)
    seeing = text_runner(model, vocab_size=decoding.VOCAB, bounds=texts.bounds)
    scheduler = Scheduler(SplitRunner(texts, seeing), set())
    row = sequence("image", [1, 2, 3], 8)
    row.media = SimpleNamespace(alone=True, sharers=0, infos=None)
    scheduler.add(row)
    step(scheduler)
    step(scheduler)
    failing.fails = True
    other = sequence("text", [4, 5, 6], 3)
    scheduler.add(other)
    while scheduler.has_unfinished:
        step(scheduler)
    assert row.output_tokens == sequential(model, [1, 2, 3], 8)
    assert other.output_tokens == sequential(model, [4, 5, 6], 3)
