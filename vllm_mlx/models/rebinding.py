"""A model's own code, calling what we put in the place of a function.

`rebind(model, makers)` gives the model's modules classes whose methods see other globals. Only
this model's: mlx-lm stays as it is for all other code, a benchmark's peer among it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

import mlx.nn as nn

Makers = tuple[tuple[str, Callable[[Any], Any]], ...]
"""Names, and what makes ours of what stands there; it may return what it was given."""


def rebind(model: nn.Module, makers: Makers) -> None:
    """Have the methods of all modules of a model see what the makers make.

    Modules that hold nothing stay: an activation may be the default of several models.
    """
    for module in model.modules():
        if len(module):
            layer: Any = module
            theirs: Any = type(module)
            layer.__class__ = _class(theirs, makers)


@functools.cache
def _class(theirs: type[nn.Module], makers: Makers) -> type[nn.Module]:
    methods: dict[str, FunctionType] = {}
    for base in reversed(theirs.__mro__):
        if base not in nn.Module.__mro__:
            for name, method in vars(base).items():
                methods.pop(name, None)
                is_method = isinstance(method, FunctionType) and name != "__init__"
                if is_method and (names := _made(method, makers)):
                    methods[name] = rebound(method, names)
    if not methods:
        return theirs
    return type(theirs.__name__, (theirs,), {"__module__": theirs.__module__, **methods})


def _made(function: FunctionType, makers: Makers) -> dict[str, Any]:
    """Ours by the names that a function uses."""
    used = set(_names(function.__code__)) & function.__globals__.keys()
    pairs = {name: make(function.__globals__[name]) for name, make in makers if name in used}
    return {name: ours for name, ours in pairs.items() if ours is not function.__globals__[name]}


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):  # of a function within
            yield from _names(constant)


def rebound(function: FunctionType, names: dict[str, Any]) -> FunctionType:
    """Return the same function with other globals; where it calls itself, it calls the new one."""
    seen = {**function.__globals__, **names}
    ours = FunctionType(
        function.__code__, seen, function.__name__, function.__defaults__, function.__closure__
    )
    ours.__kwdefaults__ = function.__kwdefaults__
    functools.update_wrapper(ours, function)
    if function.__globals__.get(function.__name__) is function:
        seen[function.__name__] = ours
    return ours
