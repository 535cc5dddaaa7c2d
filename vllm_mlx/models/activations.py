"""Activations as a CPU computes them fast, whatever the architecture; see `platform.cpu`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vllm_mlx import platform
from vllm_mlx.models import architectures
from vllm_mlx.models.rebinding import Makers
from vllm_mlx.platform import cpu


def _instead_of(known: Any, ours: Callable[..., mx.array]) -> Callable[[Any], Any]:
    """Return what makes `ours` of whatever computes the same as `known`."""
    code = known.__code__

    @functools.cache
    def make(theirs: Any) -> Any:
        found = getattr(theirs, "__code__", None)
        same = found and (found.co_code, found.co_names) == (code.co_code, code.co_names)
        return _in_float32(ours, theirs) if same and platform.backend() == "cpu" else theirs

    return make


def _in_float32(ours: Callable[..., mx.array], theirs: Callable[..., mx.array]) -> Any:
    @functools.wraps(theirs, updated=())
    def activate(*arrays: mx.array) -> mx.array:
        plain = all(array.dtype == mx.float32 for array in arrays)
        return ours(*arrays) if plain else theirs(*arrays)

    return activate


@functools.cache
def _nn(theirs: Any) -> Any:
    """Make a `mlx.nn` with other activations of the one that a module imports."""
    if theirs is not nn or platform.backend() != "cpu":
        return theirs
    ours = ModuleType(nn.__name__)
    ours.__dict__.update(nn.__dict__)
    ours.__dict__["silu"] = _in_float32(cpu.silu, nn.silu)
    ours.__dict__["gelu_approx"] = _in_float32(cpu.gelu, nn.gelu_approx)
    return ours


_OURS = {"swiglu": cpu.swiglu, "geglu": cpu.geglu}
ACTIVATIONS: Makers = (
    *(
        (name, _instead_of(architectures.function_named(known), _OURS[name]))
        for known, name in architectures.ACTIVATIONS.items()
    ),
    ("nn", _nn),
)
