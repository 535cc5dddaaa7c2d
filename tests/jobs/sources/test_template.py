"""What a template may say, and where it is read from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.sources import Template
from jobs.sources.template import template_of
from vllm_mlx.errors import InvalidRequestError

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{{ q }}"}]
SEEN = [{"role": "user", "content": [{"type": "image", "image": "{{ pic }}"}]}]


def test_texts_that_begin_with_an_at_sign_are_read_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jinja").write_text("\ufeff@{{ title }}\n\n", "utf-8")
    Path("chat.json").write_text(json.dumps(CHAT))

    assert Template.of(prompt="@a.jinja").prompt == "@{{ title }}\n", "but the file's last line end"
    assert Template.of(system=f"@{tmp_path}/a.jinja", prompt="p").system == "@{{ title }}\n"
    assert Template.of(messages="@chat.json").messages == CHAT
    assert Template.of(messages=json.dumps(CHAT)) == Template.of(messages=CHAT)


def test_a_spec_from_elsewhere_reads_no_file() -> None:
    assert Template.model_validate({"prompt": "@/etc/hostname"}).prompt == "@/etc/hostname"


def test_no_options_are_no_template() -> None:
    assert template_of(prompt=None, id_column=None) is None
    assert template_of(prompt=None, id_column="a") == Template(id_column="a")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": "a", "messages": CHAT}, "give one of prompt and messages"),
        ({"prompt": "@none.jinja"}, "prompt='@none.jinja': the file can't be read: No such file"),
        ({"prompt": "@"}, "can't be read"),
        ({"system": "@none"}, "system='@none'"),
        ({"messages": "[{"}, "messages='.*': not JSON"),
        ({"messages": "{}"}, "should be a valid list"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages\\[0].role='robot'"),
        ({"messages": CHAT, "system": "a"}, "system: messages has a system message already"),
        ({"messages": SEEN, "image_column": "pic"}, "image_column: messages has images"),
        ({"prompt": ""}, "prompt=''"),
        ({"prompt": " \n"}, "prompt=' .*': should be a text of more than white space"),
        ({"system": " "}, "system=' ': should be a text of more"),
        ({"id_column": ""}, "id_column=''"),
        ({"prompt": 5}, "prompt=5"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        Template.of(**options)


def test_whether_prompts_are_sent_as_chats() -> None:
    prompt, id = Template.of(prompt="p"), Template.of(id_column="a")
    assert [prompt.check_chat(each, sees=False) for each in (None, True, False)] == [1, 1, 0]
    assert [id.check_chat(each, sees=False) for each in (None, True, False)] == [0, 1, 0]
    for template, sees, words in [
        (Template.of(system="s"), False, "system makes chats"),
        (Template.of(messages=CHAT), False, "messages makes chats"),
        (prompt, True, "shown in a chat"),
    ]:
        with pytest.raises(InvalidRequestError, match=words):
            template.check_chat(False, sees=sees)
