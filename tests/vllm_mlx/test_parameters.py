"""Settings: sizes in bytes, and fields in words for `help()`, command line and documents."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import pytest

from jobs.requests import GenerationRequest
from vllm_mlx.engine import BatchedEngine
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.models import MLXLanguageModel, MLXMultimodalLM
from vllm_mlx.models.multimodal import DESCRIPTION_TOKENS
from vllm_mlx.parameters import Parameters, Setting, settings_of
from vllm_mlx.sampling_options import SamplingOptions
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.video_params import VideoOptions, VideoParams

CLASSES = [GenerationRequest, SamplingParams, SchedulerConfig, VideoParams]


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (1, 1),
        ("1", 1),
        ("8000000000", 8 * 10**9),
        (str(2**62 + 1), 2**62 + 1),
        ("512B", 512),
        ("64k", 64_000),
        ("512MB", 512 * 10**6),
        ("8GB", 8 * 10**9),
        ("8GiB", 8 * 2**30),
        ("8 gib", 8 * 2**30),
        ("1.5GB", 1_500_000_000),
    ],
)
def test_a_size_is_a_number_or_has_a_unit(given: int | str, size: int) -> None:
    assert SchedulerConfig.of(kv_cache_bytes=given).kv_cache_bytes == size


@pytest.mark.parametrize(
    "given", ["", "GB", "8 gigabytes", "-8GB", "0", 0, "0.1", "1e9", "iB", True, 2.5]
)
def test_what_is_no_size_is_refused_by_name(given: object) -> None:
    with pytest.raises(InvalidRequestError, match="kv_cache_bytes="):
        SchedulerConfig.of(kv_cache_bytes=given)


def test_a_setting_is_told_in_words() -> None:
    assert settings_of(SamplingParams)["max_tokens"] == Setting(
        name="max_tokens",
        type="integer",
        range="at least 0",
        default="256",
        help="Most tokens to generate, the end token included; 0 only reads the prompt.",
    )
    ranges = {name: each.range for name, each in settings_of(GenerationRequest).items()}
    assert ranges["top_p"] == "above 0, up to 1"
    assert ranges["logprobs"] == "0 to 20"
    assert ranges["seed"] == "at least 0"
    assert ranges["images"] == "up to 64"
    assert settings_of(SchedulerConfig)["kv_cache_bytes"].type == "size"


@pytest.mark.parametrize("parameters", CLASSES, ids=lambda each: each.__name__)
def test_every_field_is_described_and_help_shows_it(parameters: type[Parameters]) -> None:
    for name, setting in settings_of(parameters).items():
        assert setting.help.endswith("."), name
        assert f"    {name}: {setting.help.split(',')[0]}" in str(parameters.__doc__)


@pytest.mark.parametrize(
    ("options", "parameters"), [(SamplingOptions, SamplingParams), (VideoOptions, VideoParams)]
)
def test_keywords_are_the_fields(options: type, parameters: type[Parameters]) -> None:
    ways = {"response_format"}  # OpenAI's to say `structured_outputs`
    assert options.__annotations__.keys() - ways == parameters.model_fields.keys()


CALLS = [
    call
    for owner in (MLXLanguageModel, MLXMultimodalLM, BatchedEngine)
    for name, call in inspect.getmembers(owner, inspect.isfunction)
    if not name.startswith("_")
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__qualname__)
def test_docstrings_of_calls_tell_the_defaults_of_the_fields(call: Callable[..., object]) -> None:
    most = DESCRIPTION_TOKENS if "describe" in call.__name__ else SamplingParams().max_tokens
    video = VideoParams()
    defaults = {"max_tokens": most, "fps": video.video_fps, "max_frames": video.video_max_frames}

    told = re.findall(r"(\w+): [^:]*; (\S+) by default", call.__doc__ or "")

    assert told == [(name, str(defaults[name])) for name, _ in told]


def test_the_calls_that_tell_defaults_are_looked_at() -> None:
    assert sum("by default" in str(call.__doc__) for call in CALLS) >= 5
