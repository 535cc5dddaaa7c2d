"""Tiny models of mlx-vlm's architectures with random weights, in folders like real ones.

Those of Qwen are in `tests.helpers.vlm`.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_vlm.utils import get_model_and_args, update_module_configs
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.helpers.decoding import randomize
from tests.helpers.newer_vision_configs import NEWER
from tests.helpers.vision_configs import OLDER, VIDEO, VOCAB, Architecture

ARCHITECTURES = {**OLDER, **NEWER}


def write_folder(parent: Path, name: str) -> Path:
    """A model of that architecture, the same each time, in a folder of its own."""
    architecture, folder = ARCHITECTURES[name], parent / name
    folder.mkdir(parents=True)
    config = {"model_type": name, "vocab_size": VOCAB, "eos_token_id": 257, **architecture.config}
    _write(folder / "config.json", config)
    for file, content in architecture.files.items():
        _write(folder / f"{file}.json", content)
    _write_tokenizer(architecture, folder)
    model = randomize(_model(copy.deepcopy(config)), 0.15)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    return folder


def _model(config: dict[str, Any]) -> Any:
    module, _ = get_model_and_args(config)
    parts = ["text", "vision", "perceiver", "projector", "audio"]
    made = update_module_configs(module.ModelConfig.from_dict(config), module, config, parts)
    return module.Model(made)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def _write_tokenizer(architecture: Architecture, folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    named = {256: "<pad>", 257: "<eos>", 258: "<bos>", architecture.image_id: architecture.image}
    named |= {VIDEO: architecture.video} | architecture.specials
    vocab = {letter: at for at, letter in enumerate(alphabet)}
    for at in range(len(alphabet), max(VOCAB, architecture.image_id + 1)):
        vocab[named.get(at, f"<unused{at}>")] = at
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in named.values()]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "bos_token": "<bos>",
        "model_max_length": 4096,
        **architecture.tokenizer,
    }
    if architecture.template is not None:
        template = architecture.template.replace("IMAGE", architecture.image)
        settings["chat_template"] = template.replace("VIDEO", architecture.video)
    _write(folder / "tokenizer_config.json", settings)
