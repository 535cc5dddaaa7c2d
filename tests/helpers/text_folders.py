"""Tiny models of mlx-lm's architectures with random weights, in folders like real ones."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.helpers.architectures import config_of
from tests.helpers.decoding import randomize


def new_model(name: str) -> Any:
    """A model of that architecture, the same each time."""
    config = config_of(name)
    module = importlib.import_module(f"mlx_lm.models.{name}")
    return randomize(module.Model(module.ModelArgs.from_dict(config)), 0.4)


def write_folder(parent: Path, name: str) -> Path:
    """A model of that architecture, the same each time, in a folder of its own."""
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(name)))
    weights = dict(tree_flatten(new_model(name).parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    _write_tokenizer(folder)
    return folder


def _write_tokenizer(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: at for at, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
