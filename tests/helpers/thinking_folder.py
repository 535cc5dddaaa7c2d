"""Tiny models that think or call tools, in folders like real ones; a token has one follower.

`<think>` is followed by a to p, `</think>`, a line break, xyz and the end.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models import llama
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

THOUGHT = "abcdefghijklmnop"
ANSWER = "xyz"
END = "<|im_end|>"

CHATS = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}:{{ message.content }}<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant"""
SWITCHED = CHATS + (
    ":{%- if enable_thinking is defined and enable_thinking is false -%}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif -%}{%- endif -%}"
)
"""The model opens the thought, unless it is switched off, as Qwen3's."""
OPENED = CHATS + ":<think>{%- endif -%}"
"""The template opens it, as DeepSeek-R1's; there is no switch."""
OFF_AT_FIRST = CHATS + (
    ":{%- if thinking -%}<think>{%- else -%}{{ '</think>\\n' }}{%- endif -%}{%- endif -%}"
)
"""It does so if it is told to, as DeepSeek-V3.1's."""
CHANNELS = CHATS + "{%- endif -%}"
"""gpt-oss': the model opens a channel."""

CALL = '{"name": "weather", "arguments": {"city": "Łódź"}}'
WITH_TOOLS = (
    "{%- if tools -%}<|im_start|>system:{%- for tool in tools -%}{{ tool.function | tojson }}"
    "{%- endfor -%}<|im_end|>{%- endif -%}"
    + CHATS.replace(
        "{{ message.content }}",
        "{{ message.content }}{% for tool_call in message.tool_calls or [] -%}<tool_call>"
        '{"name": "{{ tool_call.name or tool_call.function.name }}", '
        '"arguments": {{ tool_call.function.arguments | tojson }}}</tool_call>{%- endfor -%}',
    )
    + ":{%- endif -%}"
)
"""As Qwen's, by which mlx-lm finds its parser."""

_CHAINS = {
    "think": [
        [":", "<think>", *THOUGHT, "</think>", "\n", *ANSWER, END],
    ],
    "gemma": [
        [":", "<|channel>", "thought", "\n", *THOUGHT, "<channel|>", *ANSWER, END],
    ],
    "xtml": [
        [":", "<|open|>", "response", "<|sep|>", *ANSWER, "<|close|>", "response"],
    ],
    "another marker": [
        [":", "<|channel>", *ANSWER, END],
        ["thought", *"abc", "<channel|>"],
    ],
    "another channel": [
        ["assistant", "<|channel|>", "commentary", "<|message|>", *ANSWER, END],
    ],
    "calls": [
        [":", "I look.", "\n", "<tool_call>", CALL, "</tool_call>", END],
    ],
    "channels": [
        ["assistant", "<|channel|>", "analysis", "<|message|>", *THOUGHT, END],
        ["<|end|>", "<|start|>", "assistant"],
    ],
}
_ADDED = {
    "think": ["<think>", "</think>"],
    "gemma": ["<|channel>", "<channel|>", "thought"],
    "xtml": ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>", "think", "response"],
    "calls": ["I look.", "<tool_call>", CALL, "</tool_call>"],
    "channels": ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "analysis", "final"],
}
# The first of two tokens that are as likely is chosen.
_ADDED["another marker"] = _ADDED["gemma"]
_ADDED["another channel"] = [*_ADDED["channels"][:4], "final", "analysis", "commentary"]
TEMPLATES = {"think": SWITCHED, "gemma": CHATS + ":{%- endif -%}", "channels": CHANNELS}
TEMPLATES |= {"calls": WITH_TOOLS, "xtml": TEMPLATES["gemma"]}
TEMPLATES |= {"another marker": TEMPLATES["gemma"], "another channel": CHANNELS}


def write_thinking_model(folder: Path, kind: str = "think", template: str | None = None) -> str:
    """A model of this kind of markers.

    Args:
        kind: one of `TEMPLATES`.
        template: what it has for a chat, if that is another one.
    """
    tokenizer = _tokenizer(_ADDED[kind])
    vocab = tokenizer.get_vocab()
    size = len(vocab)
    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": 320,
        "num_hidden_layers": 1,
        "intermediate_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-5,
        "vocab_size": size,
        "tie_word_embeddings": False,
        "max_position_embeddings": 4096,
        "eos_token_id": vocab[END],
    }
    model = llama.Model(llama.ModelArgs.from_dict(config))
    model.update(tree_map(mx.zeros_like, model.parameters()))
    embedded = mx.eye(size, 320)
    head = mx.zeros((size, 320))
    for chain in _CHAINS[kind]:
        for one, other in pairwise(chain):
            head[vocab[_written(other)], vocab[_written(one)]] = 2.0
    model.model.embed_tokens.weight, model.lm_head.weight = embedded, head
    model.model.norm.weight = mx.ones((320,))
    folder.mkdir()
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(template or TEMPLATES[kind])
    return str(folder)


def _written(token: str) -> str:
    return "Ċ" if token == "\n" else token


def _tokenizer(added: list[str]) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={c: at for at, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokens = ["<|im_start|>", END, "assistant", *added]
    made.add_tokens([AddedToken(each, special=each.startswith("<|im")) for each in tokens])
    return made
