"""A model's matrices, and what they cost: operations, bytes, and measured seconds."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from benchmarks.floor import Costs, Rates
from vllm_mlx import platform
from vllm_mlx.batching.slots.layout import Layout

PREFILL_CHUNK = {"cpu": 256, "cuda": 2048, "metal": 2048}  # tokens: the M of a prefill's matmuls
COPIED_BYTES = {"cpu": 2**29, "cuda": 2**32, "metal": 2**31}
WIDTHS = (1, 8, 16, 32, 64, 128, 256)
REPEATS = 5


class Matrices:
    """The matrices of a model of mlx-lm, plain or quantized, its experts among them.

    Attributes:
        dtype: the type that the model computes in.
        is_quantized: whether any of its matrices is.

    Raises:
        ValueError: the model's arguments do not say how its attention is built.
    """

    def __init__(self, model: nn.Module) -> None:
        named = dict(model.named_modules())
        linears = _named(named, nn.Linear | nn.QuantizedLinear)
        heads = [name for name in linears if name.split(".")[-1] == "lm_head"]
        self._body = [module for name, module in linears.items() if name not in heads]
        self._experts = list(_named(named, SwitchLinear | QuantizedSwitchLinear).values())
        if heads:
            self._head = linears[heads[0]]
            self._apply_head: Callable[[mx.array], mx.array] = self._head
        else:
            self._head = next(iter(_named(named, nn.Embedding | nn.QuantizedEmbedding).values()))
            self._apply_head = self._head.as_linear
        self._args = next(filter(None, map(_arguments, named.values())), None)
        if self._args is None:
            raise ValueError(f"{type(model).__name__}: its arguments do not describe its attention")
        self._model = model
        self.is_quantized = any("scales" in m for m in (*self._body, self._head))
        self.dtype: mx.Dtype = self._head.get("scales", self._head.weight).dtype

    def costs(self) -> Costs:
        args: Any = self._args
        queries_per_key = args.num_attention_heads // (
            getattr(args, "num_key_value_heads", None) or args.num_attention_heads
        )
        chosen = 1.0
        if self._experts:
            chosen = args.num_experts_per_tok / self._experts[0].weight.shape[0]
        experts = sum(_size(module) for module in self._experts)
        return Costs(
            body_parameters=sum(map(_size, self._body)) + int(chosen * experts),
            head_parameters=_size(self._head),
            weight_bytes=sum(map(_bytes, (*self._body, self._head))),
            footprint=Layout.of(make_prompt_cache(self._model)).footprint(self._model),
            # Two products of a multiplication and an addition, for a key and for a value.
            operations_per_kv_byte=2 * queries_per_key / self.dtype.size,
            expert_bytes=sum(map(_bytes, self._experts)),
            chosen=chosen,
        )

    def measure(self, widest: int) -> Rates:
        """The machine's rates for this model; seconds of a step for up to `widest` rows."""
        return Rates(
            matmul=self._matmul_rate(PREFILL_CHUNK[platform.backend()]),
            bandwidth=_bandwidth(COPIED_BYTES[platform.backend()]),
            # A quantized model may be computed in other shapes (dequantized): no bound to it. Nor
            # to experts, whose time depends on which of them are chosen.
            step_seconds={}
            if self.is_quantized or self._experts
            else self._seconds_by_width(widest),
        )

    def _seconds_by_width(self, widest: int) -> dict[int, float]:
        """No width takes longer than a wider one: a step may be padded."""
        least, found = float("inf"), {}
        for width in sorted({min(width, widest) for width in WIDTHS}, reverse=True):
            found[width] = least = min(least, self._step_seconds(width))
        return dict(sorted(found.items()))

    def _matmul_rate(self, chunk: int) -> float:
        """Operations per second over the shapes of the layers, dense, in the model's type."""
        operations = seconds = 0.0
        for (rows, columns), count in Counter(map(_shape, self._body)).items():
            x = mx.random.normal((chunk, columns), dtype=self.dtype)
            weight = mx.random.normal((rows, columns), dtype=self.dtype)
            mx.eval(x, weight)
            copies = 1 if platform.backend() == "cpu" else 16  # the launches of many overlap
            best = _best_seconds(lambda x=x, w=weight, n=copies: [x @ w.T for _ in range(n)])
            operations += 2 * chunk * rows * columns * count
            seconds += best / copies * count
        return operations / seconds

    def _step_seconds(self, width: int) -> float:
        """Every matrix of the model once, on `width` rows that do not depend on each other."""
        inputs = {
            columns: mx.random.normal((width, columns), dtype=self.dtype)
            for columns in {_shape(module)[1] for module in (*self._body, self._head)}
        }
        mx.eval(inputs)
        return _best_seconds(
            lambda: [
                *(module(inputs[_shape(module)[1]]) for module in self._body),
                self._apply_head(inputs[_shape(self._head)[1]]),
            ]
        )


def _bandwidth(size: int) -> float:
    """Bytes per second, read and written ones alike, when `size` bytes move.

    On a GPU the better of adding up and of copying. On a CPU MLX's own loops reach a fifth of what
    a plain copy does, so there it is that.
    """
    if platform.backend() == "cpu":
        source, target = bytearray(size // 2), memoryview(bytearray(size // 2))
        return size / _best_seconds(lambda: target.__setitem__(slice(None), source) or ())
    half = mx.zeros(size // 8, dtype=mx.float32)
    whole = mx.zeros(size // 4, dtype=mx.float32)
    mx.eval(half, whole)
    read = _best_seconds(lambda: [whole.sum()])
    copied = _best_seconds(lambda: [half + 1])
    return size / min(read, copied)


def _best_seconds(compute: Callable[[], Sequence[mx.array]]) -> float:
    """The least of `REPEATS` after a warm-up: a floor wants the machine at its best."""
    taken = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        results = compute()
        mx.eval(results)
        taken.append(time.perf_counter() - started)
        del results
    return min(taken[1:])


def _named(modules: dict[str, nn.Module], kind: Any) -> dict[str, Any]:
    return {name: module for name, module in modules.items() if isinstance(module, kind)}


def _arguments(module: nn.Module) -> Any:
    """What a module was made with, if that says how its attention is built."""
    given = (getattr(module, name, None) for name in ("args", "config"))
    return next((each for each in given if hasattr(each, "num_attention_heads")), None)


def _shape(module: nn.Module) -> tuple[int, int]:
    """Output and input dimension."""
    rows, columns = module.weight.shape[-2:]
    return rows, module.scales.shape[-1] * module.group_size if "scales" in module else columns


def _size(module: nn.Module) -> int:
    """Elements of a matrix, or of those of all experts."""
    rows, columns = _shape(module)
    size: int = rows * columns * math.prod(module.weight.shape[:-2])
    return size


def _bytes(module: nn.Module) -> int:
    return sum(array.nbytes for _, array in tree_flatten(module.parameters()))
