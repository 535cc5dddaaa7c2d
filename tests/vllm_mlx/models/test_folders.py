"""Local model folders: tiny random llamas with the real tokenizer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from tests.helpers.text_model import write_text_model
from vllm_mlx.errors import ChatTemplateError, ContextLengthError, ModelLoadError
from vllm_mlx.models import MLXLanguageModel

CONTEXT = 64
CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return write_text_model(tmp_path_factory.mktemp("models") / "tiny", context=CONTEXT)


def test_a_folder_answers(folder):
    with MLXLanguageModel(folder) as model:
        assert model.generate("Hello", max_tokens=5).completion_tokens == 5
        assert model.chat(CHAT, max_tokens=3).completion_tokens == 3


def test_the_answer_is_cut_where_the_context_ends(folder):
    with MLXLanguageModel(folder) as model:
        output = model.generate("hello " * 60, max_tokens=50, temperature=0)
        assert output.finish_reason == "length"
        assert output.prompt_tokens + output.completion_tokens == CONTEXT
        with pytest.raises(ContextLengthError, match=str(CONTEXT)):
            model.generate("hello " * 70)


@pytest.mark.parametrize("quantize", [False, True], ids=["bfloat16", "4 bits"])
def test_on_a_cpu_the_weights_are_float32(tmp_path, quantize):
    saved = write_text_model(tmp_path / "model", dtype=mx.bfloat16, quantize=quantize)
    with MLXLanguageModel(saved) as model:
        parameters = tree_flatten(model._core.loaded.model.parameters())
        assert {weight.dtype for _, weight in parameters} == {mx.float32}
        assert model.generate("Hello", max_tokens=2).completion_tokens == 2


def test_a_base_model_says_that_it_has_no_template(tmp_path, folder):
    base = tmp_path / "base"
    shutil.copytree(folder, base)
    (base / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((base / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    with MLXLanguageModel(str(base)) as model:
        with pytest.raises(ChatTemplateError, match="no chat template"):
            model.chat(CHAT)
        assert model.generate("Hello", max_tokens=2).completion_tokens == 2


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{broken"),
        ("config.json", b'{"model_type": "zzz"}'),
        ("model.safetensors", b"junk"),
    ],
)
def test_a_damaged_folder_says_so(tmp_path, folder, file, content):
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (damaged / file).write_bytes(content)
    with pytest.raises(ModelLoadError, match="damaged"):
        MLXLanguageModel(str(damaged)).load()


def test_a_load_that_fails_ends_the_process_in_order():
    """The documented `except Exception` around a model that is not there; it aborted once."""
    code = """
from vllm_mlx.models import MLXLanguageModel
try:
    model = MLXLanguageModel("invalid-model"); model.load()
except Exception as e:
    print(f"Failed to load model: {e}")
"""
    for _ in range(3):
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.startswith("Failed to load model: can't load 'invalid-model'")
