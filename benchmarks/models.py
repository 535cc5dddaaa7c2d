"""The models that a benchmark runs: by name, or random weights in a known shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.switch_layers import SwitchLinear
from mlx_lm.utils import _get_classes

from benchmarks.shapes import EXPERTS, TEXT
from vllm_mlx import platform
from vllm_mlx.model_files import ALIASES
from vllm_mlx.models import loading
from vllm_mlx.models.accelerated import accelerate, place

GROUP_SIZE = 64


@dataclass(frozen=True)
class ModelPair:
    """The same weights twice.

    Attributes:
        ours: as our loader leaves a model for this backend.
        peers: as mlx-lm has it. Of a `.gguf` file, and on a CPU, the weights come through our
            loader: mlx-lm does not read the first, and its own, in 16 bits or quantized, would be
            many times slower on the second. The modules are mlx-lm's.
    """

    ours: nn.Module
    peers: nn.Module
    vocab_size: int
    name: str


def named_models(name: str) -> ModelPair:
    """A hub id, a local folder, a `.gguf` file, or an alias."""
    loaded = loading.load_model(name)
    if platform.backend() == "cpu" or name in ALIASES or name.lower().endswith(".gguf"):
        peers = loading.load_model(name, accelerated=False).model
    else:
        peers = mlx_lm.load(name)[0]
    return ModelPair(loaded.model, peers, loaded.vocab_size, name)


def random_models(shape: str, bits: int | None, seed: int, layers: int | None = None) -> ModelPair:
    """Weights from N(0, 0.02²), norms of one, in the type that this backend is fast in.

    That is bfloat16, but float32 on a CPU.

    Args:
        bits: quantize the weights for both, as the checkpoints of the shape are.
        layers: the first so many of the shape's; None for all.
    """
    config = {**TEXT[shape], **({"num_hidden_layers": layers} if layers else {})}
    platform.prepare()
    dtype = mx.float32 if platform.backend() == "cpu" else mx.bfloat16
    peers, ours = _model(config), _model(config)
    fill(peers, dtype, seed)
    if bits:
        for model in (peers, ours):
            _quantize(model, bits, EXPERTS.get(shape, {}))
    ours.update(peers.parameters())  # the same arrays: what `ours` was made with is never computed
    for model in (peers, ours):
        model.eval()
        evaluate(model)
    placed = accelerate(place(ours))
    about = ["random weights", str(dtype).removeprefix("mlx.core.")]
    about += [f"{bits} bits"] if bits else []
    about += [f"{layers} of {TEXT[shape]['num_hidden_layers']} layers"] if layers else []
    return ModelPair(placed, peers, config["vocab_size"], f"{shape} ({', '.join(about)})")


def _model(config: dict[str, Any]) -> nn.Module:
    """A model of mlx-lm, as a checkpoint that shares its embedding with its head leaves it."""
    new_model, arguments = _get_classes(config)
    model: Any = new_model(arguments.from_dict(dict(config)))
    model.sanitize({})
    return model


def _quantize(model: Any, bits: int, experts: dict[str, Any]) -> None:
    own = getattr(model, "quant_predicate", None)

    def how(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized"):
            return False
        if isinstance(module, SwitchLinear) and experts.get("bits") == bits:
            return dict(experts)
        found: bool | dict[str, Any] = own(path, module) if own else True
        return found

    nn.quantize(model, group_size=GROUP_SIZE, bits=bits, class_predicate=how)


def fill(model: nn.Module, dtype: mx.Dtype, seed: int) -> None:
    """Give a model the weights of a benchmark, which are computed when they are needed."""
    key = mx.random.key(seed)
    filled = []
    for name, array in tree_flatten(model.parameters()):
        key, own = mx.random.split(key)
        is_scale = array.ndim == 1 and "norm" in name and name.endswith("weight")
        made = mx.random.normal(array.shape, dtype, scale=0.02, key=own)
        filled.append((name, mx.ones(array.shape, dtype) if is_scale else made))
    model.update(tree_unflatten(filled))


def evaluate(model: nn.Module) -> None:
    """Compute a model's weights one after the other: what makes the largest is held but once."""
    for _, array in tree_flatten(model.parameters()):
        mx.eval(array)
