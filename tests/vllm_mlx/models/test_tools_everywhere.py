"""Tools in the runners that step what slots can't hold, and of models that see."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.thinking_folder import write_thinking_model
from tests.helpers.vision_folders import write_folder
from tests.helpers.vlm import image, random_vlm
from tests.vllm_mlx.models.test_calling_tools import ASKED, NAMED, TOOLS, WEATHER
from vllm_mlx.batching.runners import make_runner
from vllm_mlx.batching.runners.upstream import UpstreamRunner
from vllm_mlx.models import MLXLanguageModel, MLXMultimodalLM


def upstream_only(model: Any, vocab_size: int, bounds: Any, why: Any) -> Iterator[Any]:
    yield (
        "in mlx-lm's batches",
        partial(UpstreamRunner, model, vocab_size=vocab_size, bounds=bounds),
        None,
    )


@pytest.mark.parametrize(
    ("ways", "name"),
    [(upstream_only, "UpstreamRunner"), (lambda *_: iter(()), "OneByOneRunner")],
    ids=["mlx-lm's batches", "one by one"],
)
def test_other_runners_call_as_slots_do(
    ways: Callable[..., Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_runner, "_batches", ways)
    with MLXLanguageModel(write_thinking_model(tmp_path / "tiny", "calls")) as model:
        assert f": {name}, " in repr(model)
        output = model.chat(ASKED, temperature=0, tools=TOOLS)
        assert (output.text, output.finish_reason) == ("I look.", "stop")
        assert [call.function for call in output.tool_calls or ()] == [WEATHER]
        pieces = [chunk.text for chunk in model.stream_chat(ASKED, temperature=0, tools=TOOLS)]
        assert "".join(pieces) == "I look."
        held = model.chat(ASKED, 400, seed=1, tools=TOOLS, tool_choice=NAMED)
        assert [call.function.name for call in held.tool_calls or ()] == ["time"]
        assert json.loads(held.tool_calls[0].function.arguments)["city"] in ("Łódź", "Rome")
        free = model.chat(ASKED, temperature=0, tools=TOOLS, tool_choice="none")
        assert free.tool_calls is None
        assert "<tool_call>" in free.text


@pytest.mark.parametrize(
    "write", [random_vlm, lambda parent: write_folder(parent, "smolvlm")], ids=["ours", "mlx-vlm"]
)
def test_models_that_see_call_what_they_have_to(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    seen = [{"type": "image", "image": image()}, {"type": "text", "text": "What is it?"}]
    with MLXMultimodalLM(str(write(tmp_path))) as model:
        for content in (seen, "What is it?"):
            asked = [{"role": "user", "content": content}]
            shown, hidden = (
                model.chat(asked, 1, tools=TOOLS, tool_choice=choice).prompt_tokens
                for choice in ("required", "none")
            )
            assert shown > hidden
            output = model.chat(asked, 600, seed=1, tools=TOOLS, tool_choice=NAMED)
            assert output.complete
            assert [call.function.name for call in output.tool_calls or ()] == ["time"]
