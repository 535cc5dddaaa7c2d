"""`Fastest`: of several forms of a computation the one that was fastest, and right, when tried."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from vllm_mlx.platform.device import is_late_failure

logger = logging.getLogger(__name__)

_REPEATS = 2
_TOLERANCES = {mx.float32: 1e-4, mx.float16: 1e-2, mx.bfloat16: 3e-2}
"""How far results may be apart, as a share of the largest number in them."""

Form = Callable[..., Any]


class Fastest:
    """Forms of one computation, tried once for each kind of arguments.

    A form that fails or answers otherwise than the first one is never taken, so a kernel may be
    offered wherever it could fit.
    """

    def __init__(
        self,
        name: str,
        forms: Mapping[str, Form],
        kind: Callable[..., Hashable],
        sample: Callable[..., tuple[Any, ...]],
    ) -> None:
        """Prepare to choose.

        Args:
            name: of the computation, for the log.
            forms: by name; the first one is right by definition.
            kind: of the arguments, what their shapes decide; each kind has its own choice.
            sample: of the arguments, as much as a trial takes.
        """
        self._name, self._forms, self._kind, self._sample = name, dict(forms), kind, sample
        self._chosen: dict[Hashable, Form] = {}

    def __call__(self, *arguments: Any) -> Any:
        kind = self._kind(*arguments)
        form = self._chosen.get(kind) or self._choose(kind, self._sample(*arguments))
        return form(*arguments)

    def _choose(self, kind: Hashable, sample: tuple[Any, ...]) -> Form:
        first = next(iter(self._forms.values()))
        try:
            mx.eval(sample)
        except ValueError:  # a function is being traced: there is nothing to compute with
            return first
        expected = first(*sample)
        seconds: dict[str, float] = {}
        for name, form in self._forms.items():
            try:
                if _alike(form(*sample), expected):
                    seconds[name] = _measure(form, sample)
                else:
                    logger.warning("%s %s: %s answers otherwise", self._name, kind, name)
            except (RuntimeError, ValueError, TypeError) as error:
                if is_late_failure(error):
                    raise
                logger.info("%s %s: no %s here: %s", self._name, kind, name, error)
        best = min(seconds, key=seconds.__getitem__, default=next(iter(self._forms)))
        shown = ", ".join(f"{name} {1e3 * taken:.2f} ms" for name, taken in seconds.items())
        logger.info("%s %s: %s (%s)", self._name, kind, best, shown)
        self._chosen[kind] = self._forms[best]
        return self._forms[best]


def _alike(found: Any, expected: Any) -> bool:
    pairs: Any = zip(tree_flatten(found), tree_flatten(expected), strict=True)
    return all(_near(a, b) for (_, a), (_, b) in pairs)


def _near(a: mx.array, b: mx.array) -> bool:
    if a.shape != b.shape:
        return False
    tolerance = max(_TOLERANCES.get(each.dtype, 0.0) for each in (a, b))
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    return bool((mx.abs(a - b).max() <= tolerance * mx.abs(b).max()).item())


def _measure(form: Form, arguments: tuple[Any, ...]) -> float:
    """Seconds that a call takes at best."""
    taken = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        mx.eval(form(*arguments))
        taken.append(time.perf_counter() - start)
    return min(taken)
