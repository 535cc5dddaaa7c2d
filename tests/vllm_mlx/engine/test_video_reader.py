"""`video_reader` of engines and models: which reader opens a video, and its frames are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.clips import make_clip, numbers_of
from tests.helpers.vision_folders import write_folder
from vllm_mlx.engine import BatchedEngine, SimpleEngine
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.media import video
from vllm_mlx.media.policy import UNRESTRICTED, MediaPolicy
from vllm_mlx.models import MLXMultimodalLM

FRAMES, FPS = 60, 30
ASKED = {"max_tokens": 1, "temperature": 0, "video_fps": 2.0}
HALF_SECONDS = [0, 15, 30, 45]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", FRAMES, FPS)


@pytest.fixture(scope="module")
def one_by_one_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models"), "smolvlm")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """The readers that were asked, each with the numbers drawn in its frames."""
    found: list[tuple[str, list[int]]] = []

    def spy(name: str, reader: Any) -> Any:
        def read(*given: Any) -> Any:
            frames = reader(*given)
            found.append((name, numbers_of(frames)))
            return frames

        return read

    for name, function in (("decord", "read_by_decord"), ("pyav", "read_by_seeking")):
        monkeypatch.setattr(video, function, spy(name, getattr(video, function)))
    return found


@pytest.mark.parametrize("kind", [SimpleEngine, BatchedEngine, MLXMultimodalLM])
@pytest.mark.parametrize("folder", ["vision_folder", "one_by_one_folder"])
@pytest.mark.parametrize(
    ("given", "reader"),
    [
        ({}, "pyav"),
        ({"video_reader": "auto"}, "pyav"),
        ({"video_reader": "pyav"}, "pyav"),
        ({"video_reader": "decord"}, "decord"),
    ],
)
async def test_each_reader_acts_and_gives_the_right_frames(
    request: pytest.FixtureRequest,
    clip: Path,
    opened: list[tuple[str, list[int]]],
    kind: Any,
    folder: str,
    given: dict[str, Any],
    reader: str,
) -> None:
    model = str(request.getfixturevalue(folder))

    if kind is MLXMultimodalLM:
        with kind(model, **given) as mllm:
            output = mllm.generate("What?", videos=[clip], **ASKED)
    else:
        async with kind(model, **given) as engine:
            output = await engine.generate("What?", videos=[clip], **ASKED)

    assert opened == [(reader, HALF_SECONDS)]
    assert output.media
    assert output.media[0].timestamps == (0.0, 0.5, 1.0, 1.5)


async def test_a_policy_may_say_it_too(
    vision_folder: Path, clip: Path, opened: list[tuple[str, list[int]]]
) -> None:
    policy = MediaPolicy(allowed_paths=None, video_reader="decord")
    async with BatchedEngine(str(vision_folder), media_policy=policy) as engine:
        await engine.generate("What?", videos=[clip], **ASKED)
    assert opened == [("decord", HALF_SECONDS)]


@pytest.mark.parametrize("kind", [SimpleEngine, BatchedEngine, MLXMultimodalLM])
def test_another_reader_is_refused_by_name(kind: Any) -> None:
    with pytest.raises(InvalidRequestError, match="video_reader='opencv': should be auto, pyav"):
        kind("model", video_reader="opencv")
    assert UNRESTRICTED.video_reader == "auto"
