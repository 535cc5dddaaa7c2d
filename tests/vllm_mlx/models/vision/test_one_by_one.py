"""`OneByOneRunner` and what prepares its prompts, on a tiny SmolVLM with random weights."""

from __future__ import annotations

import re
from pathlib import Path

import mlx.core as mx
import mlx_vlm
import numpy as np
import pytest
from mlx_lm.sample_utils import make_logits_processors
from PIL import Image

from tests.helpers.decoding import new_scheduler, run, sequence, step
from tests.helpers.vision_folders import VOCAB, write_folder
from vllm_mlx.batching.prompts.prompt import MediaPrompt, user_prompt
from vllm_mlx.batching.request import Request
from vllm_mlx.errors import (
    ChatTemplateError,
    MediaError,
    ModelLoadError,
    NonFiniteLogitsError,
    RequestAbortedError,
)
from vllm_mlx.media.policy import UNRESTRICTED
from vllm_mlx.models import MLXMultimodalLM
from vllm_mlx.models.vision import reading
from vllm_mlx.models.vision.inputs import InputsPreparer, Processing
from vllm_mlx.models.vision.loading import load_vision
from vllm_mlx.models.vision.one_by_one import OneByOneModel, _with_prompt
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.video_params import VideoParams

PROMPT = list(b"user: What is it?")


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 255, (40, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_folder(tmp_path_factory.mktemp("models"), "smolvlm"))


@pytest.fixture(scope="module")
def model(folder):
    with MLXMultimodalLM(folder) as model:
        yield model


@pytest.fixture
def bare(folder):
    """mlx-vlm's model and processor."""
    return mlx_vlm.load(folder)


@pytest.fixture
def scheduler(bare):
    return new_scheduler(OneByOneModel(bare[0]), vocab_size=VOCAB, max_num_seqs=8)


def asked(text, *images):
    return user_prompt(text, list(images), None, None)


def submit(model, prompt, **params):
    return model._core.submit(Request(prompt, SamplingParams.of(temperature=0.0, **params)))[0]


# One after the other.


def test_it_says_that_it_has_one_place(scheduler):
    assert scheduler._runner.bounds.max_num_seqs == 1
    first, second = (sequence(name, PROMPT, 5) for name in "ab")
    scheduler.add(first)
    scheduler.add(second)
    assert not scheduler._runner.slots
    step(scheduler)
    assert (scheduler.stats.running, scheduler.stats.waiting, scheduler.stats.slots) == (1, 1, 1)
    assert scheduler.stats.kv_cache_bytes > 0
    while scheduler.has_unfinished:
        step(scheduler)
    assert first.output_tokens == second.output_tokens
    assert (scheduler.stats.slots, scheduler.stats.kv_cache_bytes) == (0, 0)


def test_what_it_did_is_counted(scheduler):
    run(scheduler, [sequence("a", PROMPT, 5), sequence("b", PROMPT[:7], 4)])
    stats = scheduler.stats
    assert stats.prompt_tokens == len(PROMPT) + 7
    assert stats.completion_tokens == stats.steps == 9
    assert stats.prefill_seconds > 0
    assert stats.decode_seconds > 0


def test_rows_with_other_images_wait_for_each_other(model):
    prompts = [asked("What is it?", pixels(seed)) for seed in range(5)]
    alone = [submit(model, prompt, max_tokens=9).result().text for prompt in prompts]
    futures = [submit(model, prompt, max_tokens=9) for prompt in prompts]
    assert [future.result().text for future in futures] == alone
    assert len(set(alone)) > 2, "images make a difference"


# Ends.


def test_abort_frees_the_place(bare, scheduler):
    first, second = sequence("a", PROMPT, 500), sequence("b", PROMPT, 3)
    scheduler.add(first)
    scheduler.add(second)
    for _ in range(3):
        step(scheduler)
    _, steps = scheduler._runner._running
    assert scheduler.remove("a") is first
    assert steps.gi_frame is None, "the generator holds the cache no more"
    assert run(scheduler, []) == []
    assert len(second.future.result(0).text) == 0
    assert len(second.output_tokens) == 3


def test_an_aborted_request_says_so_and_the_next_runs(model):
    request = Request(
        asked("What?", pixels(0)),
        SamplingParams.of(max_tokens=3000, temperature=0.0),
        "first",
        on_chunk=lambda _: model._core.abort("first"),
    )
    (first,) = model._core.submit(request)
    second = submit(model, asked("What?", pixels(1)), max_tokens=3)
    with pytest.raises(RequestAbortedError):
        first.result()
    assert second.result().completion_tokens <= 3


def test_a_stop_string_ends_the_answer(model):
    whole = model.generate("What is it?", images=[pixels(0)], max_tokens=12, temperature=0.0)
    stop = whole.text[4:6]
    cut = model.generate(
        "What is it?", images=[pixels(0)], max_tokens=12, temperature=0.0, stop=[stop]
    )
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"


def test_logits_that_are_not_finite_fail_their_row_only(bare):
    model, _ = bare
    embeddings = model.language_model.embed_tokens
    weight = embeddings.weight
    weight[7] = mx.nan
    embeddings.weight = weight
    scheduler = new_scheduler(OneByOneModel(model), vocab_size=VOCAB)
    poisoned, healthy = sequence("a", [1, 7, 2], 4), sequence("b", [1, 2, 3], 4)
    for each in (poisoned, healthy):
        scheduler.add(each)
    while scheduler.has_unfinished:
        step(scheduler)
    assert isinstance(poisoned.future.exception(0), NonFiniteLogitsError)
    assert healthy.future.result(0).completion_tokens == 4


# Sampling.


def test_the_seed_decides(model):
    def ask(seed):
        return model.generate(
            "What?", images=[pixels(0)], max_tokens=10, temperature=1.0, seed=seed
        )

    texts = [ask(seed).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_samples_share_what_was_prepared_for_them(model, monkeypatch):
    made = []
    original = Processing.inputs
    monkeypatch.setattr(Processing, "inputs", lambda *given: made.append(1) or original(*given))
    outputs = model.generate_samples(
        "What?", 4, images=[pixels(0)], max_tokens=10, temperature=1.0, seed=5
    )
    assert len({output.text for output in outputs}) == 4
    assert len(made) == 1
    again = model.generate(
        "What?", images=[pixels(0)], max_tokens=10, temperature=1.0, seed=outputs[2].seed
    )
    assert again.text == outputs[2].text


def test_log_probabilities_are_given_when_asked_for(model):
    output = model.generate("What?", images=[pixels(0)], max_tokens=5, temperature=0.0, logprobs=3)
    for token in output.logprobs:
        values = [each.logprob for each in token.top]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert token.logprob == values[0]
    assert model.generate("What?", max_tokens=5, temperature=0.0).logprobs is None


@pytest.mark.parametrize("max_num_batched_tokens", [4, 2048])
def test_the_repetition_penalty_sees_the_prompt(bare, max_num_batched_tokens):
    """As in slots, however the prompt is computed."""
    model = bare[0].language_model
    penalize = make_logits_processors(repetition_penalty=1.8)[0]
    expected = list(PROMPT)
    for _ in range(8):
        logits = model(mx.array([expected])).logits[:, -1]
        expected.append(int(penalize(mx.array(expected), logits).argmax()))
    scheduler = new_scheduler(
        OneByOneModel(bare[0]), vocab_size=VOCAB, max_num_batched_tokens=max_num_batched_tokens
    )
    found = run(scheduler, [sequence("a", PROMPT, 8, repetition_penalty=1.8)])
    assert found == [expected[len(PROMPT) :]]


@pytest.mark.parametrize("max_num_batched_tokens", [4, 2048])
def test_penalties_and_biases_are_those_of_slots(bare, max_num_batched_tokens):
    """Over generated tokens alone; a ban holds, and ends wait for `min_tokens`."""
    model = bare[0].language_model
    tokens, counts = list(PROMPT), mx.zeros((VOCAB,))
    for at in range(8):
        logits = model(mx.array([tokens])).logits[0, -1] - 0.9 * counts - 1.5 * (counts > 0)
        logits[7] = -mx.inf
        if at < 5:
            logits[::2] = -mx.inf
        tokens.append(int(logits.argmax()))
        counts[tokens[-1]] += 1
        if at >= 5 and tokens[-1] % 2 == 0:
            break
    scheduler = new_scheduler(
        OneByOneModel(bare[0]), vocab_size=VOCAB, max_num_batched_tokens=max_num_batched_tokens
    )
    params = {"frequency_penalty": 0.9, "presence_penalty": 1.5, "logit_bias": {7: -100}}
    ends = {"stop_token_ids": list(range(0, VOCAB, 2)), "min_tokens": 5}
    row = sequence("a", PROMPT, 8, **params, **ends)
    assert run(scheduler, [row]) == [tokens[len(PROMPT) :]]


@pytest.mark.parametrize("shown", [[3], [1, 2, 3]])
def test_a_processor_sees_each_token_once(shown):
    seen = []
    process = _with_prompt(lambda tokens, logits: seen.append(tokens.tolist()), [1, 2, 3])
    for answer in ([], [9], [9, 8]):
        process(mx.array(shown + answer), mx.zeros((1, 10)))
    assert seen == [[1, 2, 3], [1, 2, 3, 9], [1, 2, 3, 9, 8]]


# Preparing.


@pytest.fixture
def preparer(bare):
    return InputsPreparer(Processing(*bare), UNRESTRICTED, max_bytes=1 << 20)


def test_inputs_are_held_until_they_are_released(preparer):
    tokens, media = preparer.prepare(asked("What?", pixels(0)))
    assert preparer._inputs.nbytes > 0
    assert media.inputs()["input_ids"].tolist() == [tokens]
    assert media.rope_delta == 0
    media.release()
    media.release()
    assert preparer._inputs.nbytes == 0


def test_inputs_that_were_let_go_are_made_again(preparer):
    _, media = preparer.prepare(asked("What?", pixels(0)))
    expected = media.inputs()["pixel_values"]
    media.release()
    assert mx.array_equal(media.inputs()["pixel_values"], expected)


def test_an_image_is_read_once_for_many_prompts(preparer, monkeypatch, tmp_path):
    Image.fromarray(pixels(0)).save(tmp_path / "image.png")
    read = []
    original = reading.read_image
    monkeypatch.setattr(
        reading, "read_image", lambda *given, **how: read.append(1) or original(*given, **how)
    )
    for text in ("What?", "Where?", "When?"):
        preparer.prepare(asked(text, tmp_path / "image.png"))
    assert len(read) == 1


def test_nothing_is_held_for_a_prompt_that_fails(preparer):
    with pytest.raises(MediaError, match="the prompt's text has the placeholder <image>"):
        preparer.prepare(asked("Is <image> like this?", pixels(0)))
    assert not preparer._inputs._pins
    assert not preparer._pixels._pins


def test_media_stand_where_the_messages_have_them(bare, preparer):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image", "image": pixels(0)}]},
        {"role": "assistant", "content": "A cat."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "And"}, {"type": "image", "image": pixels(1)}],
        },
    ]
    tokens, media = preparer.prepare(MediaPrompt(messages, VideoParams.of()))
    text = re.sub(r"<fake.*?>.*?<fake.*?>", "IMAGE", bare[1].tokenizer.decode(tokens))
    assert text == "system: Be brief.user: IMAGEassistant: A cat.user: AndIMAGEassistant: "
    assert len(media.infos) == 2


def test_a_template_without_a_place_for_images_is_no_silence(bare):
    model, processor = bare
    template = "{% for message in messages %}{{ message.role }}{% endfor %}"
    processor.chat_template = processor.tokenizer.chat_template = template
    with pytest.raises(MediaError, match="has no place for images"):
        InputsPreparer(Processing(model, processor), UNRESTRICTED, max_bytes=1).prepare(
            asked("What?", pixels(0))
        )


def test_a_template_that_raises_says_why(bare):
    model, processor = bare
    template = "{{ raise_exception('no systems here') }}"
    processor.chat_template = processor.tokenizer.chat_template = template
    with pytest.raises(ChatTemplateError, match="no systems here"):
        Processing(model, processor).encode([{"role": "user", "content": "Hello"}], {})


def test_models_that_answer_otherwise_are_refused(folder, monkeypatch):
    monkeypatch.setattr("vllm_mlx.models.vision.loading.is_diffusion_model", lambda _: True)
    with pytest.raises(ModelLoadError, match="smolvlm does not answer token after token"):
        load_vision(Path(folder), False)
