"""What crosses between a worker and its engine's process comes out as it went in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vllm_mlx.batching.prompts.prompt import MediaPrompt
from vllm_mlx.media.policy import UNRESTRICTED, MediaPolicy
from vllm_mlx.outputs import EngineStats, GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.video_params import VideoParams
from worker.engine.wire import (
    Asked,
    EngineEvent,
    Failure,
    Order,
    Setup,
    decode_prompt,
    encode_prompt,
)

NO_UTF8 = "/clips/\udcff"  # as Python names a folder whose name is no UTF-8
CONFIG = SchedulerConfig(max_num_seqs=3, kv_cache_bytes=2**40)
SEEDED = SamplingParams.of(seed=2**63 - 1, stop=["a", "\n"], max_tokens=9, top_p=0.3)


@pytest.mark.parametrize(
    "message",
    [
        Setup("m:f", "model", "/a/model", SchedulerConfig(), MediaPolicy()),
        Setup("m:f", "é", NO_UTF8, CONFIG, UNRESTRICTED, verbose=True, scratch=NO_UTF8),
        Setup(
            "m:f",
            "",
            "",
            CONFIG,
            MediaPolicy((Path(NO_UTF8), Path("/b")), ("a.org",), 5, 6, 7, 0.5),
        ),
        Order(),
        Order((Asked("[]", {0: SamplingParams.of(), 1: SEEDED}), Asked('""', {2**40: SEEDED}))),
        Order(cancelled=(1, 2), stop=True),
        EngineEvent(),
        EngineEvent(ready=4, stats=EngineStats(steps=3, decode_seconds=0.1)),
        EngineEvent(failed=Failure("ModelLoadError", "no\nmodel"), began=(7,)),
        EngineEvent(answers=((3, GenerationOutput("a")), (4, GenerationOutput("b", seed=1)))),
    ],
)
def test_messages_are_lines(message: Setup | Order | EngineEvent) -> None:
    line = message.encode()

    assert b"\n" not in line
    assert type(message).decode(line + b"\n") == message


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "half \ud800 and \u2028 'é'",
        [{"role": "user", "content": "é\nß", "score": float("inf")}],
        MediaPrompt(
            [{"role": "user", "content": [{"type": "video", "video": "a\udcff.mp4"}]}],
            VideoParams.of(video_fps=0.1),
        ),
        5,
    ],
)
def test_prompts_stay_as_they_are(prompt: Any) -> None:
    order = Order((Asked(encode_prompt(prompt), {0: SEEDED}),))

    (asked,) = Order.decode(order.encode()).asked

    assert decode_prompt(asked.prompt) == prompt


@pytest.mark.parametrize(
    "prompt", [b"bytes", {1, 2}, MediaPrompt([{"content": object()}], VideoParams.of())]
)
def test_a_prompt_that_json_can_not_hold_raises(prompt: Any) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        encode_prompt(prompt)
