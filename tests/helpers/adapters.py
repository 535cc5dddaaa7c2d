"""Tiny adapters as mlx-lm's trainer writes them, whose random numbers change every answer."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model, save_config

from tests.helpers.decoding import randomize


def write_adapter(
    folder: Path,
    base: Path | str | Any,
    *,
    kind: str = "lora",
    keys: list[str] | None = None,
    seed: int = 1,
    scale: float = 2.0,
    noise: float = 0.3,
) -> Path:
    """Write an adapter of a model, or of the one in a folder; returns the adapter's folder."""
    named = isinstance(base, str | Path)
    model = load_model(Path(base))[0] if named else base
    args = types.SimpleNamespace(
        model=str(base) if named else None,
        fine_tune_type=kind,
        num_layers=-1,
        lora_parameters={"rank": 4, "scale": scale, "dropout": 0.1, "keys": keys},
        iters=1000,  # and all else that a trainer was told
    )
    model.freeze()
    if kind == "full":
        model.layers[-1].unfreeze()
    else:
        use_dora = kind == "dora"
        linear_to_lora_layers(model, args.num_layers, dict(args.lora_parameters), use_dora)
    learned: Any = model.trainable_parameters()
    before = dict(tree_flatten(learned))
    randomize(model, noise, seed)
    weights = dict(tree_flatten(model.trainable_parameters()))
    for name, value in before.items():  # magnitudes near those that they were, as training ends
        if name.endswith(".m"):
            weights[name] = value * (1 + noise * (mx.arange(value.size) % 3))
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    mx.save_safetensors(str(folder / "0000100_adapters.safetensors"), weights)
    save_config(vars(args), folder / "adapter_config.json")
    return folder
