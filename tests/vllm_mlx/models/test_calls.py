"""How people call models and engines: by position, piece by piece, with numbers of numpy's."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

from tests.helpers.clips import make_clip
from tests.helpers.vlm import image
from vllm_mlx.engine import BatchedEngine, SimpleEngine
from vllm_mlx.errors import EngineStoppedError, InvalidRequestError
from vllm_mlx.models import MLXLanguageModel, MLXMultimodalLM

CHAT = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0}


@pytest.fixture(scope="module")
def mllm(vision_folder):
    with MLXMultimodalLM(str(vision_folder)) as model:
        yield model


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return str(make_clip(tmp_path_factory.mktemp("calls") / "video.mp4", 120))


def test_the_second_position_of_a_language_model_is_max_tokens(tiny_model):
    assert tiny_model.generate("Once upon a time", 3).completion_tokens == 3
    assert tiny_model.chat(CHAT, 3).completion_tokens == 3
    assert [*tiny_model.stream_generate("Once", 3)][-1].completion_tokens == 3
    assert [*tiny_model.stream_chat(CHAT, 3)][-1].completion_tokens == 3
    samples = tiny_model.generate_samples("Once upon a time", 2, 3)
    assert [each.completion_tokens for each in samples] == [3, 3]


@pytest.mark.parametrize("kind", [SimpleEngine, BatchedEngine])
async def test_the_second_position_of_an_engine_is_max_tokens(vision_folder, kind):
    async with kind(str(vision_folder)) as engine:
        assert (await engine.generate("Once", 3)).completion_tokens == 3
        assert (await engine.chat(CHAT, 3)).completion_tokens == 3
        for stream in (engine.stream_generate("Once", 3), engine.stream_chat(CHAT, 3)):
            assert [chunk async for chunk in stream][-1].completion_tokens == 3
        samples = await engine.generate_samples("Once", 2, 3)
        assert [each.completion_tokens for each in samples] == [3, 3]


def test_images_and_videos_are_the_second_and_third_position(mllm, video):
    options = {"max_tokens": 2, "video_max_frames": 2}
    for output in (
        mllm.generate("Compare", [image()], [video], **options),
        [*mllm.stream_generate("Compare", [image()], [video], **options)][-1],
        mllm.generate_samples("Compare", 1, [image()], [video], **options)[0],
    ):
        assert [info.kind for info in output.media] == ["image", "video"]


def test_questions_about_media_take_their_arguments_by_position(mllm, video):
    asked = mllm.generate("?", [image()], max_tokens=20, **GREEDY).text
    assert mllm.answer_about_image(image(), "?", 20, **GREEDY) == asked
    assert mllm.describe_image(image(), "?", 20, **GREEDY) == asked
    options = {"video_fps": 1.0, "video_max_frames": 3, "max_tokens": 20}
    asked = mllm.generate("?", None, [video], **options, **GREEDY).text
    assert mllm.describe_video(video, "?", 1.0, 3, 20, **GREEDY) == asked


def test_a_description_has_512_tokens_unless_told_otherwise(mllm, monkeypatch):
    with pytest.raises(InvalidRequestError, match="max_tokens=-1"):
        mllm.describe_image(image(), max_tokens=-1)
    asked = []
    generate = MLXMultimodalLM.generate

    def spy(self, *args, **options):
        asked.append(options["max_tokens"])
        return generate(self, *args, **{**options, "max_tokens": 1})

    monkeypatch.setattr(MLXMultimodalLM, "generate", spy)
    for max_tokens in ({}, {"max_tokens": None}, {"max_tokens": 7}):
        mllm.describe_image(image(), **max_tokens)
        mllm.describe_video([image(0), image(1)], **max_tokens)
    assert asked == [512, 512, 512, 512, 7, 7]


def test_a_streamed_chat_joined_is_the_chat(language_model, mllm):
    whole = language_model.chat(CHAT, 20, **GREEDY)
    chunks = list(language_model.stream_chat(CHAT, 20, **GREEDY))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert (len(chunks) > 2, chunks[-1].finish_reason) == (True, whole.finish_reason)
    seen = [{"role": "user", "content": [{"type": "image", "image": image()}]}]
    chunks = list(mllm.stream_chat(seen, 6, **GREEDY))
    assert "".join(chunk.text for chunk in chunks) == mllm.chat(seen, 6, **GREEDY).text
    assert chunks[-1].media


async def test_a_streamed_chat_of_an_engine_joined_is_the_chat(vision_folder):
    async with BatchedEngine(str(vision_folder)) as engine:
        whole = await engine.chat(CHAT, 8, seed=1)
        chunks = [chunk async for chunk in engine.stream_chat(CHAT, 8, seed=1)]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    with pytest.raises(InvalidRequestError, match="messages"):
        engine.stream_chat("Hello")


def test_numbers_of_numpy_none_and_a_set_of_stops(language_model, video, mllm):
    plain = language_model.generate("Count: 1 2 3", 12, temperature=0.5, seed=3, stop=["\n", "9"])
    same = language_model.generate(
        "Count: 1 2 3",
        np.int64(12),
        temperature=np.float32(0.5),
        top_p=None,
        seed=np.uint64(3),
        stop={"\n", "9"},
    )
    assert (same.text, same.seed, type(same.seed)) == (plain.text, 3, int)
    assert len(language_model.generate_samples("Once", np.int64(2), np.int32(1))) == 2
    with pytest.raises(InvalidRequestError, match=r"n=3: .* generate_samples\(\) gives n"):
        language_model.generate("Once", n=3)
    few = mllm.generate(
        "?", None, [video], video_fps=np.float64(1), video_max_frames=np.int64(2), max_tokens=1
    )
    assert len(few.media[0].timestamps) == 2
    described = mllm.describe_video(video, "?", np.float32(1), np.int64(2), np.int64(9), **GREEDY)
    assert described == mllm.describe_video(video, "?", 1.0, 2, 9, **GREEDY)
    assert BatchedEngine("x", max_num_seqs=np.int64(3))._core.max_num_seqs == 3


def test_a_model_says_what_it_is_and_what_runs_it(vision_folder):
    name = str(vision_folder)
    model = MLXMultimodalLM(name)
    assert model.model_name == name
    assert repr(model) == f"<MLXMultimodalLM {name}: not loaded>"
    assert "?" in model.tokenizer.decode(model.tokenizer.encode("?"))  # which loads it
    assert repr(model) == f"<MLXMultimodalLM {name}: SlotRunner, 0 running, 0 waiting>"
    model.unload()
    assert repr(model) == f"<MLXMultimodalLM {name}: not loaded>"


async def test_an_engine_says_what_it_is_and_what_runs_it(vision_folder):
    name = str(vision_folder)
    engine = BatchedEngine(name)
    with pytest.raises(EngineStoppedError, match="not started"):
        print(engine.tokenizer)
    await engine.start()
    assert repr(engine) == f"<BatchedEngine {name}: SlotRunner, 0 running, 0 waiting>"
    assert engine.tokenizer.encode("?")
    await engine.stop()
    assert repr(engine) == f"<BatchedEngine {name}: not loaded>"


@pytest.mark.parametrize("kind", [MLXLanguageModel, MLXMultimodalLM, SimpleEngine, BatchedEngine])
def test_every_public_method_says_what_it_takes_gives_and_raises(kind):
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if name.startswith("_"):
            continue
        told = inspect.getdoc(method)
        assert told, name
        assert re.match(r"[A-Z][^.]*\.", told) or "; " in told.split("\n")[0], name
        signature = inspect.signature(method)
        takes = "Args:" in told or "takes what" in told
        assert takes == (len(signature.parameters) > 1), name
        assert ("Returns:" in told) == (signature.return_annotation != "None"), name


def test_a_developer_speaks_to_a_model_that_sees(mllm):
    asked = [{"type": "image", "image": image()}, {"type": "text", "text": "What is it?"}]
    for content in (asked, "What is it?"):
        developer, system = (
            mllm.chat(
                [{"role": role, "content": "Be brief"}, {"role": "user", "content": content}],
                4,
                **GREEDY,
            )
            for role in ("developer", "system")
        )
        assert (developer.text, developer.prompt_tokens) == (system.text, system.prompt_tokens)
