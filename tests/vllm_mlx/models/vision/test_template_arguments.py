"""What a chat template reads beside the messages, where these hold images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.vision_folders import write_folder
from tests.helpers.vlm import image, random_vlm
from vllm_mlx.errors import ChatTemplateError
from vllm_mlx.models import MLXMultimodalLM

HINT = "be brief"


@pytest.mark.parametrize(
    "write", [random_vlm, lambda parent: write_folder(parent, "smolvlm")], ids=["ours", "mlx-vlm"]
)
def test_they_reach_the_template(write: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = write(tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    file = folder / "chat_template.jinja"
    template = file.read_text() if file.exists() else settings.pop("chat_template")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    file.write_text(template + "{{ hint }}")
    asked = [
        {"role": "user", "content": [{"type": "image", "image": image()}, *_text("what?")]},
    ]

    with MLXMultimodalLM(str(folder)) as model:
        for messages in (asked, [{"role": "user", "content": "what?"}]):
            plain, hinted = (
                model.chat(messages, max_tokens=1, chat_template_kwargs=given).prompt_tokens
                for given in (None, {"hint": HINT})
            )
            assert hinted - plain == len(model.tokenizer.encode(HINT, add_special_tokens=False))
        with pytest.raises(ChatTemplateError, match=r"hint$"):
            model.chat(asked, chat_template_kwargs={"other": 1})


@pytest.mark.parametrize(
    "write", [random_vlm, lambda parent: write_folder(parent, "smolvlm")], ids=["ours", "mlx-vlm"]
)
def test_the_last_message_is_gone_on_with(write: Callable[[Path], Path], tmp_path: Path) -> None:
    begun = {"role": "assistant", "content": "It is a"}
    with MLXMultimodalLM(str(write(tmp_path))) as model:
        for content in ([{"type": "image", "image": image()}, *_text("what?")], "what?"):
            asked = [{"role": "user", "content": content}]
            fresh, going_on = (
                model.chat(messages, max_tokens=1, continue_final_message=goes_on).prompt_tokens
                for messages, goes_on in ((asked, False), ([*asked, begun], True))
            )
            added = len(model.tokenizer.encode("It is a", add_special_tokens=False))
            assert abs(going_on - fresh - added) <= 1  # a blank may stand before it


def _text(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]
