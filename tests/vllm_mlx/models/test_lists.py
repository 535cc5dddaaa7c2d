"""Lists of prompts and of chats: one batch, answered as each is alone, begun together or not."""

from __future__ import annotations

import pytest

from tests.helpers.decoding import CONTEXT_LENGTH
from tests.helpers.vlm import image
from vllm_mlx.engine import BatchedEngine, SimpleEngine
from vllm_mlx.errors import ContextLengthError, InvalidRequestError, MediaError
from vllm_mlx.models import MLXLanguageModel, MLXMultimodalLM

PROMPTS = ["The capital of France is", "Water boils at", "Once upon a time", "Two and two is", "A"]
CHATS = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
WAYS = [{"temperature": 0}, {"temperature": 1.0, "seed": 5}]
TOO_LONG = "word " * CONTEXT_LENGTH
WRONG = [
    (["a", "", "b"], InvalidRequestError, r"^\[1\]: the prompt is empty"),
    (["a", "b", 3], InvalidRequestError, r"^\[2\]: prompt is a int"),
    ([TOO_LONG, "b"], ContextLengthError, r"^\[0\]: the prompt has"),
]


def texts(outputs):
    return [(output.text, output.prompt_tokens, output.seed) for output in outputs]


@pytest.fixture(scope="module")
def mllm(vision_folder):
    with MLXMultimodalLM(str(vision_folder)) as model:
        yield model


@pytest.fixture(scope="module", params=[SimpleEngine, BatchedEngine])
def engine(request, vision_folder):
    engine = request.param(str(vision_folder))
    yield engine
    engine._core.stop()


@pytest.mark.parametrize("options", WAYS, ids=["greedy", "seeded"])
def test_a_model_answers_a_list_as_each_alone(tiny_model, options):
    before = tiny_model._core.stats.steps
    together = tiny_model.generate(PROMPTS, 12, **options)
    steps = tiny_model._core.stats.steps - before

    assert texts(together) == texts(tiny_model.generate(each, 12, **options) for each in PROMPTS)
    assert steps < 2 * 12  # not 5 times as many
    chats = tiny_model.chat(CHATS, 12, **options)
    assert texts(chats) == texts(tiny_model.chat(each, 12, **options) for each in CHATS)
    assert texts(tiny_model.generate(tuple(PROMPTS), 12, **options)) == texts(together)


def test_words_are_those_of_each_alone(language_model):
    together = language_model.chat(CHATS[:2], 6, temperature=0)
    assert [out.text for out in together] == [
        language_model.chat(each, 6, temperature=0).text for each in CHATS[:2]
    ]


def test_each_prompt_has_images_of_its_own(mllm):
    shown = [[image(), image(seed=2)], None, image(seed=3)]
    together = mllm.generate(PROMPTS[:3], shown, max_tokens=6, temperature=0)
    alone = [
        mllm.generate(prompt, images, max_tokens=6, temperature=0)
        for prompt, images in zip(PROMPTS, shown, strict=False)
    ]
    assert texts(together) == texts(alone)
    assert [len(output.media or ()) for output in together] == [2, 0, 1]


@pytest.mark.parametrize(("images", "count"), [([image()], 1), (image(), 1), ([None] * 3, 3)])
def test_there_are_as_many_media_as_prompts(mllm, images, count):
    with pytest.raises(InvalidRequestError, match=f"^images: {count} for 2 prompts"):
        mllm.generate(["a", "b"], images)


async def test_an_engine_answers_a_list_as_each_alone(engine):
    together = await engine.generate(PROMPTS, 8, temperature=0)
    assert texts(together) == texts(
        [await engine.generate(each, 8, temperature=0) for each in PROMPTS]
    )
    chats = await engine.chat(CHATS, 8, temperature=0)
    assert texts(chats) == texts([await engine.chat(each, 8, temperature=0) for each in CHATS])
    shown = await engine.generate(["a", "b"], 4, images=[image(), None], temperature=0)
    assert [len(output.media or ()) for output in shown] == [1, 0]


@pytest.mark.parametrize(("prompts", "error", "words"), WRONG)
def test_of_a_list_with_something_wrong_none_is_begun(tiny_model, prompts, error, words):
    before = tiny_model._core.stats.prompt_tokens
    with pytest.raises(error, match=words):
        tiny_model.generate(prompts, 4)
    after = tiny_model.generate("after", 1)  # behind whatever was begun
    assert tiny_model._core.stats.prompt_tokens == before + after.prompt_tokens


async def test_an_engine_begins_none_either(engine):
    await engine.start()
    before = engine.stats.prompt_tokens
    chats = [CHATS[0], [{"role": "nobody", "content": "a"}]]
    with pytest.raises(InvalidRequestError, match=r"^\[1\]: messages\[0\]\.role"):
        await engine.chat(chats, 4)
    with pytest.raises(InvalidRequestError, match=r"^\[1\]: the prompt is empty"):
        await engine.generate(["a", ""], 4)
    after = await engine.generate("after", 1)
    assert engine.stats.prompt_tokens == before + after.prompt_tokens
    with pytest.raises(InvalidRequestError, match="request_id='x': names one request"):
        await engine.generate(["a", "b"], 4, request_id="x")
    with pytest.raises(InvalidRequestError, match="request_id='x': names one request"):
        await engine.chat(CHATS, 4, request_id="x")


def test_what_can_not_be_read_is_named_by_its_place(mllm):
    with pytest.raises(MediaError, match=r"^\[1\]: .*nowhere\.png"):
        mllm.generate(["a", "b"], [image(), "nowhere.png"], max_tokens=2)
    assert mllm.generate("a", max_tokens=2).completion_tokens == 2


def test_streams_and_samples_are_of_one_prompt(tiny_model: MLXLanguageModel) -> None:
    for call in (tiny_model.stream_generate, lambda each: tiny_model.generate_samples(each, 2)):
        with pytest.raises(InvalidRequestError, match=r"prompt is a list: .*generate\(\) takes"):
            call(PROMPTS)
    with pytest.raises(InvalidRequestError, match="messages is a list of chats: should be one"):
        tiny_model.stream_chat(CHATS)


def test_of_nothing_there_is_nothing(tiny_model: MLXLanguageModel) -> None:
    assert tiny_model.generate([]) == []
