"""Text of tokens, for tokenizers of each family: it goes on where the prompt ends."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from mlx_lm import tokenizer_utils
from tokenizers import AddedToken, Tokenizer, processors

from tests.helpers.text_folders import write_folder
from tests.helpers.tokenizers import FAMILIES
from vllm_mlx.batching.runners.one_by_one import OneByOneRunner
from vllm_mlx.batching.runners.upstream import UpstreamRunner
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.batching.text.text_stream import TextStream
from vllm_mlx.models import MLXLanguageModel
from vllm_mlx.models.detokenizer import make_new_detokenizer
from vllm_mlx.scheduler_config import SchedulerConfig

TEXTS = [
    "the man and  the moon",
    " and a space before",
    "lines\nthe\n and\n\n  more\n",
    "Łódź, naïve. 日本 🙂 the",
    "an",
]
RUNNERS = {"llama": SlotRunner, "deepseek_v32": UpstreamRunner, "gpt_bigcode": OneByOneRunner}


def load(folder: Path, tokenizer: Tokenizer) -> tokenizer_utils.TokenizerWrapper:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer_utils.load(folder)


def streamed(tokenizer: tokenizer_utils.TokenizerWrapper, tokens: list[int]) -> str:
    """The text in pieces, which has to be the whole text."""
    text = TextStream(make_new_detokenizer(tokenizer, threading.Lock())(), None)
    pieces = []
    for token in tokens:
        assert not text.push(token)
        pieces.append(text.take())
    text.finish()
    assert "".join([*pieces, text.take()]) == text.text
    return text.text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", TEXTS)
def test_prompt_and_text_join(tmp_path, family, text):
    tokenizer = load(tmp_path, FAMILIES[family]())
    tokens = tokenizer.encode(text, add_special_tokens=False)
    whole = tokenizer.decode(tokens)
    assert whole.lstrip() == text.lstrip()
    for at in range(1, len(tokens)):
        prompt = tokenizer.decode(tokens[:at])
        if not prompt.endswith("\ufffd"):  # or a character is cut in half
            assert prompt + streamed(tokenizer, tokens[at:]) == whole


@pytest.mark.parametrize(
    "word", ["né", "Łódź", "naïve café", "đem", "日本", "<｜end▁of▁sentence｜>"]
)
def test_an_added_token_is_its_own_text(tmp_path, word):
    made = FAMILIES["byte_level"]()
    made.add_tokens([AddedToken(word, normalized=False)])
    tokenizer = load(tmp_path, made)
    tokens = tokenizer.encode(f"the {word} man", add_special_tokens=False)
    assert tokenizer.encode(word, add_special_tokens=False) == [len(tokenizer) - 1]
    assert streamed(tokenizer, tokens) == f"the {word} man"


def test_half_a_character_before_an_added_token_is_replaced(tmp_path):
    made = FAMILIES["byte_level"]()
    made.add_tokens([AddedToken("<end>")])
    tokenizer = load(tmp_path, made)
    half = tokenizer.encode("日", add_special_tokens=False)[:2]
    assert streamed(tokenizer, [*half, len(tokenizer) - 1]) == "\ufffd<end>"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", RUNNERS)
def test_in_every_runner_a_stream_joined_is_the_text(tmp_path, family, name):
    folder = write_folder(tmp_path, name)
    tokenizer = load(folder, FAMILIES[family]())
    model = MLXLanguageModel(str(folder))
    model._core._config = SchedulerConfig(max_num_seqs=2)  # gpt_bigcode answers alone
    with model:
        assert type(model._core._thread.parts.runner) is RUNNERS[name]
        options = {"max_tokens": 24, "temperature": 0, "logprobs": 0}
        output = model.generate("the man and", **options)
        pieces = [chunk.text for chunk in model.stream_generate("the man and", **options)]
    tokens = [each.token_id for each in output.logprobs]
    assert len(tokens) == 24
    assert "".join(pieces) == output.text == streamed(tokenizer, tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_of_one_token_keeps_its_space(tmp_path, family):
    folder = write_folder(tmp_path, "llama")
    tokenizer = load(folder, FAMILIES[family]())
    (token,) = tokenizer.encode("a th", add_special_tokens=False)[-1:]
    with MLXLanguageModel(str(folder)) as model:
        assert model._core.loaded.token_text(token) == " th"


@pytest.mark.parametrize("template", ["$A <end>", "<begin> $A <end>", "<begin> $A"])
def test_no_end_token_stands_behind_a_plain_prompt(tmp_path, template):
    folder = write_folder(tmp_path, "llama")
    made = FAMILIES["llama"]()
    made.add_special_tokens([AddedToken("<begin>"), AddedToken("<end>")])
    ids = [(name, made.token_to_id(name)) for name in ("<begin>", "<end>")]
    made.post_processor = processors.TemplateProcessing(template, special_tokens=ids)
    load(folder, made)
    with MLXLanguageModel(str(folder)) as model:
        loaded = model._core.loaded
        begin = [ids[0][1]] if "begin" in template else []
        plain = loaded.tokenizer.encode("the man", add_special_tokens=False)
        assert loaded.encode("the man") == [*begin, *plain]
        assert loaded.encode("the<end>")[-1] == ids[1][1], "what the prompt says stays"
