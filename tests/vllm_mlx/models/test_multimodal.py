"""`MLXMultimodalLM`: the documented calls, and every way to name a medium."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.clips import drawn, make_clip
from tests.helpers.decoding import ENDLESS
from tests.helpers.vlm import clip, image
from tests.helpers.web import Web, ok
from vllm_mlx.engine import BatchedEngine
from vllm_mlx.errors import (
    ContextLengthError,
    InvalidRequestError,
    MediaError,
    ModelLoadError,
)
from vllm_mlx.models import MLXLanguageModel, MLXMultimodalLM
from vllm_mlx.models.vision import reading

GREEDY = {"max_tokens": 6, "temperature": 0}
LONG = {"max_tokens": 30, "temperature": 0}


@pytest.fixture(scope="module")
def mllm(vision_folder):
    with MLXMultimodalLM(str(vision_folder)) as model:
        yield model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """photo.jpg, image1.jpg and image2.jpg, image.png, video.mp4 and other.mp4."""
    path = tmp_path_factory.mktemp("media")
    for at, name in enumerate(("photo.jpg", "image1.jpg", "image2.jpg", "image.png")):
        Image.fromarray(image(at)).save(path / name)
    make_clip(path / "video.mp4", 120)
    make_clip(path / "other.mp4", [drawn(n) for n in range(200, 260)])
    return path


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def web():
    server = Web()
    yield server
    server.close()


# The documented calls


def test_describe_and_answer_give_text(mllm, here):
    description = mllm.describe_image("photo.jpg", max_tokens=6)
    assert description
    assert isinstance(description, str)
    answer = mllm.answer_about_image("photo.jpg", "What color is the car?", **GREEDY)
    output = mllm.generate("What color is the car?", images=["photo.jpg"], **GREEDY)
    assert answer == output.text != ""


def test_compare_two_images(mllm, here):
    images = ["image1.jpg", "image2.jpg"]
    output = mllm.generate(prompt="Compare these two images", images=images, **LONG)
    other = mllm.generate(prompt="Compare these two images", images=images[::-1], **LONG)
    assert output.text != other.text
    assert [info.hash for info in output.media] == [info.hash for info in other.media][::-1]
    assert [(info.kind, info.width, info.height) for info in output.media] == [
        ("image", 64, 48)
    ] * 2


def test_a_video_with_its_frames_chosen(mllm, here):
    output = mllm.generate(
        prompt="What is happening in this video?",
        videos=["video.mp4"],
        video_fps=2.0,
        video_max_frames=16,
        max_tokens=4,
    )
    (info,) = output.media
    assert (info.kind, info.width, info.height, info.duration_s) == ("video", 160, 96, 4.0)
    assert info.timestamps == (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
    assert not info.truncated


@pytest.mark.parametrize(("fps", "most", "count"), [(4.0, 32, 16), (2.0, 3, 3), (0.25, 8, 1)])
def test_fps_and_max_frames_act(mllm, here, fps, most, count):
    output = mllm.generate(
        "?", videos=["video.mp4"], video_fps=fps, video_max_frames=most, max_tokens=1
    )
    assert len(output.media[0].timestamps) == count


def test_describe_video(mllm, here):
    text = mllm.describe_video("video.mp4", fps=2.0, **GREEDY)
    output = mllm.generate("Describe what happens in this video.", videos=["video.mp4"], **GREEDY)
    assert text == output.text
    assert mllm.describe_video("video.mp4", fps=1.0, max_frames=2, **LONG) != text


@pytest.mark.parametrize(
    ("given", "here_it_is"), [({"video_fps": 1.0}, "fps"), ({"video_max_frames": 2}, "max_frames")]
)
def test_describe_video_says_how_it_calls_what_others_call_video(mllm, here, given, here_it_is):
    with pytest.raises(InvalidRequestError, match=f"takes it as {here_it_is}$"):
        mllm.describe_video("video.mp4", **given)


def test_a_video_from_the_web(mllm, here, web):
    web.says("/video.mp4", ok((here / "video.mp4").read_bytes()))
    url = f"http://127.0.0.1:{web.port}/video.mp4"
    output = mllm.generate("Describe this video", videos=[url], video_fps=2.0, **GREEDY)
    local = mllm.generate("Describe this video", videos=["video.mp4"], video_fps=2.0, **GREEDY)
    assert (output.text, output.media) == (local.text, local.media)


def test_a_model_loads_itself_and_again_after_unload(vision_folder):
    model = MLXMultimodalLM(str(vision_folder))
    first = model.generate("?", images=[image()], **GREEDY).text
    model.unload()
    assert model.generate("?", images=[image()], **GREEDY).text == first
    model.unload()


# The same pixels, however they are given


def test_every_way_to_give_an_image_is_the_same(mllm, here, web):
    path = here / "image.png"
    raw = path.read_bytes()
    web.says("/image.png", ok(raw))
    encoded = base64.b64encode(raw).decode()
    with Image.open(path) as opened:
        sources = [
            "image.png",
            path,
            path.as_uri(),
            f"http://127.0.0.1:{web.port}/image.png",
            f"data:image/png;base64,{encoded}",
            encoded,
            raw,
            opened,
            image(3),
            np.dstack([image(3), np.full((48, 64), 255, np.uint8)]),
        ]
        outputs = [mllm.generate("What is it?", images=[each], **LONG) for each in sources]
        outputs += [mllm.generate("What is it?", images=each, **LONG) for each in sources]
    assert len({(output.text, output.media) for output in outputs}) == 1
    assert outputs[0].text != mllm.generate("What is it?", images=["image1.jpg"], **LONG).text


def test_every_way_to_give_frames_is_the_same(mllm):
    frames = clip(5)
    sources = [
        frames,
        tuple(frames),
        np.stack(frames),
        [Image.fromarray(each) for each in frames],
    ]
    outputs = [mllm.generate("What moves?", videos=[each], **LONG) for each in sources]
    assert len({output.text for output in outputs}) == 1
    assert len({output.media for output in outputs}) == 1
    assert outputs[0].media[0].timestamps == (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
    backwards = mllm.generate("What moves?", videos=[frames[::-1]], **LONG)
    assert backwards.text != outputs[0].text


def test_every_way_to_give_a_video_file_is_the_same(mllm, here):
    path = here / "video.mp4"
    raw = path.read_bytes()
    encoded = base64.b64encode(raw).decode()
    sources = ["video.mp4", path, path.as_uri(), raw, encoded, f"data:video/mp4;base64,{encoded}"]
    outputs = [mllm.generate("What moves?", videos=[each], **GREEDY) for each in sources]
    assert len({(output.text, output.media) for output in outputs}) == 1


def test_images_are_told_apart_by_what_is_shown(mllm):
    """Not by their arrays: these two differ in their palettes only, the next in their turn."""
    indices = (np.arange(48 * 64).reshape(48, 64) // 16 % 2).astype(np.uint8)
    hashes = set()
    for colours in ([255, 0, 0, 0, 255, 0], [0, 0, 255, 9, 9, 9]):
        picture = Image.fromarray(indices, "P")
        picture.putpalette(colours)
        hashes.add(mllm.generate("?", images=[picture], max_tokens=1).media[0].hash)
    for orientation in (1, 3):
        file = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(image()).save(file, "PNG", exif=exif)
        picture = Image.open(file)
        hashes.add(mllm.generate("?", images=[picture], max_tokens=1).media[0].hash)
    assert len(hashes) == 4


def test_frames_are_told_apart_by_their_times(mllm):
    still = [image()] * 40
    short = mllm.generate("?", videos=[still[:36]], max_tokens=1).media[0]
    long = mllm.generate("?", videos=[still], max_tokens=1).media[0]
    assert (short.duration_s, long.duration_s) == (18.0, 20.0)
    assert short.timestamps[-1] == 17.5
    assert long.timestamps[-1] == 19.5
    assert len(long.timestamps) == 32


def test_one_opened_picture_may_be_asked_from_many_threads(mllm):
    file = io.BytesIO()
    Image.fromarray(image(0, 800, 600)).save(file, "PNG")
    for _ in range(3):
        picture = Image.open(file)  # its pixels are read later, by whoever needs them
        found: list[Any] = []

        def ask(picture: Image.Image = picture, found: list[Any] = found) -> None:
            found.append(mllm.generate("?", images=[picture], max_tokens=1).media)

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 6
        assert len(set(found)) == 1


# What language models have, too


def test_a_stream_joined_is_the_text(mllm):
    options = {"images": [image()], "max_tokens": 12, "seed": 3}
    chunks = list(mllm.stream_generate("What is it?", **options))
    whole = mllm.generate("What is it?", **options)
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert chunks[-1].finish_reason == whole.finish_reason
    assert chunks[-1].media == whole.media != None  # noqa: E711


def test_leaving_a_stream_lets_go_of_the_media(mllm):
    for _ in mllm.stream_generate("?", images=[image()], **ENDLESS):
        break
    assert mllm.generate("?", images=[image()], max_tokens=1).latency_s < 20
    assert store_of(mllm).pinned_nbytes == 0


def test_text_alone_goes_through_the_template_too(mllm):
    plain = mllm.generate("Hello", **GREEDY)
    chat = mllm.chat([{"role": "user", "content": "Hello"}], **GREEDY)
    assert plain.text == chat.text
    assert plain.prompt_tokens == chat.prompt_tokens
    assert plain.media is None
    assert mllm.generate("Hello", images=[], videos=[], **GREEDY).text == plain.text


def test_chat_takes_openais_parts(mllm, here):
    encoded = base64.b64encode(Path("image.png").read_bytes()).decode()
    question = {"type": "text", "text": "Compare"}
    data = {"url": f"data:image/png;base64,{encoded}", "detail": "auto"}
    contents = [
        [
            {"type": "image_url", "image_url": data},
            {"type": "video_url", "video_url": {"url": "video.mp4"}},
            question,
        ],
        [
            {"type": "image", "image": "image.png"},
            {"type": "video", "video": "video.mp4"},
            question,
        ],
        [
            {"type": "image", "image": image(3)},
            {"type": "video", "video": here / "video.mp4"},
            question,
        ],
        [
            {"type": "image_url", "image_url": "image.png", "detail": "low"},
            {"type": "video", "url": here / "video.mp4"},
            question,
        ],
    ]
    outputs = [mllm.chat([{"role": "user", "content": each}], **GREEDY) for each in contents]
    outputs.append(mllm.generate("Compare", images=["image.png"], videos=["video.mp4"], **GREEDY))
    assert len({(output.text, output.media) for output in outputs}) == 1
    assert [info.kind for info in outputs[0].media] == ["image", "video"]


def test_chat_goes_on_about_an_image(mllm):
    messages = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "image", "image": image()}, {"type": "text", "text": "What?"}],
        },
        {"role": "assistant", "content": "A square."},
        {"role": "user", "content": "Sure?"},
    ]
    assert mllm.chat(messages, **GREEDY).media[0].hash
    assert mllm.chat(messages, **GREEDY).text == mllm.chat(messages, **GREEDY).text


def test_video_options_in_chat(mllm, here):
    content = [{"type": "video", "video": "video.mp4"}, {"type": "text", "text": "?"}]
    output = mllm.chat([{"role": "user", "content": content}], video_max_frames=2, max_tokens=1)
    assert len(output.media[0].timestamps) == 2


def test_video_options_beside_images_only_change_nothing(mllm, here):
    plain = mllm.generate("What is it?", images="photo.jpg", **GREEDY)
    given = mllm.generate("What is it?", images="photo.jpg", video_fps=1.0, **GREEDY)
    assert (given.text, given.media) == (plain.text, plain.media)


def test_sampling_parameters_act(mllm):
    def text(**options: Any) -> str:
        return mllm.generate("What is it?", images=[image()], max_tokens=12, **options).text

    greedy = text(temperature=0)
    assert text(temperature=2.0, seed=1) == text(temperature=2.0, seed=1) != greedy
    assert text(temperature=2.0, seed=1) != text(temperature=2.0, seed=2)
    assert text(temperature=2.0, seed=1, top_k=1) == greedy
    stop = greedy[3:5]
    assert text(temperature=0, stop=stop) == greedy[: greedy.index(stop)]


def test_logprobs(mllm):
    output = mllm.generate("What?", images=[image()], logprobs=2, **GREEDY)
    assert len(output.logprobs) == output.completion_tokens
    assert all(len(each.top) == 2 for each in output.logprobs)
    assert all(each.top[0].token_id == each.token_id for each in output.logprobs)


def test_samples_share_media_and_prefill(mllm):
    options = {"images": [image(9)], "max_tokens": 8, "temperature": 1.5, "seed": 4}
    encoded = mllm._core.loaded.model.features.encoded
    samples = mllm.generate_samples("What is it?", 4, **options)
    assert mllm._core.loaded.model.features.encoded == encoded + 1
    assert samples[0].text == mllm.generate("What is it?", **options).text
    assert len({output.text for output in samples}) > 1
    assert len({output.media for output in samples}) == 1
    assert store_of(mllm).pinned_nbytes == 0
    with pytest.raises(InvalidRequestError):
        mllm.generate_samples("What is it?", 2, images=[image()], temperature=0)


# What is wrong


def store_of(model: Any) -> Any:
    return model._core._thread.parts.media._preparer._store


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a missing file alone": ({"videos": Path("gone.mp4")}, MediaError, "gone.mp4: no such file"),
    "many images in an array": ({"images": image()[None]}, MediaError, "uint8"),
    "a set": ({"images": {"photo.jpg"}}, MediaError, "image given as set"),
    "None in it": ({"images": [None]}, InvalidRequestError, r"images=\[None\]: should be one or"),
    "a number": ({"images": 100}, InvalidRequestError, "images=100: should be one or a list"),
    "no name": ({"images": ""}, InvalidRequestError, "images='': should be one or a list"),
    "a number in it": ({"videos": [5]}, InvalidRequestError, r"videos=\[5\]: should be one or"),
    "an empty text": ({"images": [""]}, InvalidRequestError, r"images=\[''\]: should be one or"),
    "a missing file": ({"images": ["gone.jpg"]}, MediaError, "gone.jpg: no such file"),
    "a missing video": ({"videos": ["gone.mp4"]}, MediaError, "gone.mp4: no such file"),
    "garbage": ({"images": [b"garbage" * 20]}, MediaError, "no image of a known format"),
    "a garbage video": ({"videos": [b"garbage" * 20]}, MediaError, "FFmpeg can't read it"),
    "another scheme": ({"images": ["s3://bucket/a.png"]}, MediaError, "s3://"),
    "a video as image": ({"images": ["video.mp4"]}, MediaError, "no image of a known format"),
    "an image as video": ({"videos": ["photo.jpg"]}, MediaError, "still image .*images="),
    "a picture as video": ({"videos": [image()]}, MediaError, r"\[48, 64, 3\]: .*T, height"),
    "an opened picture as video": (
        {"videos": [Image.fromarray(image())]},
        MediaError,
        "video given as Image",
    ),
    "frames as image": ({"images": [np.stack(clip())]}, MediaError, "uint8"),
    "a list as image": ({"images": [[image()]]}, MediaError, "image given as list"),
    "files as frames": ({"videos": [[Path("photo.jpg")]]}, MediaError, "video given as list"),
    "an object": ({"images": [object()]}, MediaError, "image given as object"),
    "floats": ({"images": [np.zeros((8, 8, 3))]}, MediaError, "float64"),
    "no frames": ({"videos": [[]]}, MediaError, "no frames"),
    "frames of two sizes": (
        {"videos": [[image(), image(0, 32, 32)]]},
        MediaError,
        "differ in size",
    ),
    "too narrow": ({"images": [np.zeros((2, 900, 3), np.uint8)]}, MediaError, "aspect ratio"),
    "too small a video": ({"videos": [[np.zeros((8, 8, 3), np.uint8)]]}, MediaError, "larger than"),
    "frames without media": ({"video_max_frames": 2}, InvalidRequestError, "without images"),
    "fps of nothing": ({"videos": ["video.mp4"], "video_fps": 0}, InvalidRequestError, "video_fps"),
    "frames of text": (
        {"videos": ["video.mp4"], "video_max_frames": "many"},
        InvalidRequestError,
        "video_max_frames",
    ),
    "an unknown keyword": ({"image": ["photo.jpg"]}, InvalidRequestError, "image"),
    "a placeholder": (
        {"prompt": "<|image_pad|>?", "allow_special_tokens": True},
        MediaError,
        "placeholder",
    ),
    "a placeholder too many": (
        {"prompt": "<|image_pad|>?", "images": ["photo.jpg"]},
        MediaError,
        "2 placeholders",
    ),
    "an empty prompt": ({"prompt": "", "images": ["photo.jpg"]}, InvalidRequestError, "empty"),
    "half a character": (
        {"prompt": "\ud800?", "images": ["photo.jpg"]},
        InvalidRequestError,
        r"messages\[0\]\.content\[1\]\.text=.*half a surrogate pair",
    ),
    "no prompt": ({"prompt": None, "images": ["photo.jpg"]}, InvalidRequestError, "NoneType"),
}


@pytest.mark.parametrize(("given", "error", "says"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_and_the_model_goes_on(mllm, here, given, error, says):
    for call in (mllm.generate, lambda **k: list(mllm.stream_generate(**k))):
        with pytest.raises(error, match=says) as caught:
            call(**{"prompt": "What is it?", "max_tokens": 2, **given})
        assert type(caught.value) is error
    assert store_of(mllm).pinned_nbytes == 0
    assert mllm.generate("?", images=["photo.jpg"], max_tokens=1).completion_tokens == 1


@pytest.mark.parametrize("content", [5, {"type": "image"}, [5], [{"type": "audio"}]], ids=str)
def test_messages_of_a_wrong_form_are_an_invalid_request(mllm, content):
    with pytest.raises(InvalidRequestError):
        mllm.chat([{"role": "user", "content": content}], max_tokens=1)


@pytest.mark.parametrize(
    "message",
    [
        {"content": "What is it?", "images": ["photo.jpg"]},
        {"content": "What is it?", "video": "video.mp4"},
        {"content": [{"type": "text", "text": "What is it?", "image": "photo.jpg"}]},
        {"content": [{"type": "text", "text": "?", "image_url": {"url": "photo.jpg"}}]},
    ],
    ids=str,
)
def test_media_beside_the_content_are_not_left_out_in_silence(mllm, here, message):
    with pytest.raises(InvalidRequestError, match="media are parts of a message's content"):
        mllm.chat([{"role": "user", **message}], max_tokens=1)
    nothing = {"images": None, "content": [{"type": "text", "text": "?", "image": None}]}
    assert mllm.chat([{"role": "user", **nothing}], max_tokens=1).completion_tokens == 1


def test_media_beyond_the_context_are_refused_with_numbers(vision_folder, tmp_path):
    folder = Path(shutil.copytree(vision_folder, tmp_path / "small"))
    config = json.loads((folder / "config.json").read_bytes())
    config["text_config"]["max_position_embeddings"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    with MLXMultimodalLM(str(folder)) as small:
        with pytest.raises(ContextLengthError, match=r"has 71 tokens.* holds 64"):
            small.generate("What moves?", videos=[clip()], max_tokens=5)
        assert store_of(small).pinned_nbytes == 0
        output = small.generate("?", images=[image()], max_tokens=100, temperature=0)
        assert output.prompt_tokens + output.completion_tokens == 64


def test_a_text_model_says_that_it_sees_nothing(language_model, here):
    content = [{"type": "image", "image": "photo.jpg"}, {"type": "text", "text": "?"}]
    with pytest.raises(MediaError, match="smollm2-135m sees no images and videos: use a vision"):
        language_model.chat([{"role": "user", "content": content}])
    with MLXMultimodalLM("smollm2-135m") as model:
        with pytest.raises(MediaError, match="sees no images"):
            model.generate("What is it?", images=["photo.jpg"])
        assert model.generate("Hello", max_tokens=1).completion_tokens == 1


def test_a_language_model_of_a_vision_folder_reads_text(vision_folder):
    with MLXLanguageModel(str(vision_folder)) as model:
        assert model.generate("Hello", max_tokens=3).completion_tokens == 3
        with pytest.raises(MediaError, match="placeholder"):
            model.generate("<|video_pad|>")


def test_a_model_that_is_not_there_says_which():
    with pytest.raises(ModelLoadError, match="no/such"):
        MLXMultimodalLM("no/such-model").load()


def test_a_file_that_changes_while_it_is_read_is_an_error_and_not_kept(mllm, tmp_path, monkeypatch):
    path, same = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(image(1)).save(path)
    shutil.copy(path, same)
    right = mllm.generate("What?", images=[str(same)], **GREEDY).media[0].hash
    hash_of = reading.file_hash
    Image.fromarray(image(2)).save(path)
    shutil.copy(path, same)

    def then_changed(file: Path) -> str:
        found = hash_of(file)
        Image.fromarray(image(3)).save(path)
        return found

    monkeypatch.setattr(reading, "file_hash", then_changed)
    with pytest.raises(MediaError, match="changed while it was read"):
        mllm.generate("What?", images=[str(path)], **GREEDY)
    monkeypatch.undo()
    found = mllm.generate("What?", images=[str(same)], **GREEDY).media[0].hash
    assert found == mllm.generate("What?", images=[image(2)], **GREEDY).media[0].hash != right


def test_slow_hosts_do_not_hold_up_what_is_at_hand(vision_folder):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

        async def ask() -> None:
            async with BatchedEngine(str(vision_folder), max_num_seqs=4) as engine:
                slow = [
                    asyncio.ensure_future(
                        engine.generate("?", images=[f"http://127.0.0.1:{port}/{n}.png"])
                    )
                    for n in range(4)
                ]
                asked = engine.generate("?", images=[image(1)], **GREEDY)
                assert (await asyncio.wait_for(asked, 30)).completion_tokens
                for each in slow:
                    each.cancel()
                await asyncio.gather(*slow, return_exceptions=True)

        started = time.monotonic()
        asyncio.run(ask())
        assert time.monotonic() - started < 40
