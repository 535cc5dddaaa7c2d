"""`DecodeStep`: a model over one new token a slot, followed once and then replayed.

What a GPU computes in a millisecond, Python takes several to say, operation after operation:
`mx.compile` notes them once for each size of the rings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vllm_mlx import platform
from vllm_mlx.batching.slots.memory import SlotMemory
from vllm_mlx.batching.slots.rings import Rings

logger = logging.getLogger(__name__)


class DecodeStep:
    """Calls a model, whose caches hold the rings of one batch.

    Args:
        caches: the memories, as the model takes them.
        compiles: whether steps are replayed; the first one of each size never is, for it may try
            which form of an operation is fastest.
    """

    def __init__(
        self, model: Any, memories: Sequence[SlotMemory], caches: list[Any], *, compiles: bool
    ) -> None:
        self._model, self._memories, self._caches = model, memories, caches
        self._seen: set[tuple[int, int]] = set()
        self._followed = _Followed(model, memories, caches)
        self._replay: Any = mx.compile(self._followed.step) if compiles else None
        self._is_checked = False

    def __call__(self, tokens: mx.array, rings: Rings) -> mx.array:
        """Return logits `[S, V]` of the tokens `[S]`, which the memories hold then."""
        size = rings.slots, rings.columns
        if self._replay is None or size not in self._seen:
            self._seen.add(size)
            return _step(self._model, tokens, self._caches)
        self._followed.rings = rings
        held = [memory.arrays for memory in self._memories]
        try:
            if not self._is_checked:
                self._followed.check(tokens, held)
                self._is_checked = True
            logits, arrays = self._replay(tokens, rings.arrays, held)
        except Exception as error:  # whatever an architecture asks of what is not computed yet
            if platform.is_device_failure(error):
                raise
            logger.info("decode steps are not compiled: %s: %s", type(error).__name__, error)
            self._replay = None
            return _step(self._model, tokens, self._caches)
        for memory, own in zip(self._memories, arrays, strict=True):
            memory.arrays = own
        computed: mx.array = logits
        return computed


def _step(model: Any, tokens: mx.array, caches: list[Any]) -> mx.array:
    logits: mx.array = model(tokens[:, None], cache=caches)[:, -1]
    return logits


class _Followed:
    """The step as a function of arrays. It knows nothing of `DecodeStep`, which so frees it, and
    with it the weights in what was compiled."""

    rings: Rings

    def __init__(self, model: Any, memories: Sequence[SlotMemory], caches: list[Any]) -> None:
        self._model, self._memories, self._caches = model, memories, caches
        self._longest, self._was_asked = 1, False

    def check(self, tokens: mx.array, arrays: list[list[mx.array]]) -> None:
        """Try whether the number of tokens matters, if the model asks for it.

        Some of mlx-vlm do, to cut what is given for a whole prompt, and so for none in a step.

        Raises:
            ValueError: it does.
        """
        few, _ = self.step(tokens, self.rings.arrays, arrays)
        self._longest = self.rings.columns - 1
        many, _ = self.step(tokens, self.rings.arrays, arrays)
        if self._was_asked and not mx.array_equal(few, many, equal_nan=True).item():
            raise ValueError("the number of tokens is another one in each step")

    def step(
        self, tokens: mx.array, ring_arrays: list[mx.array], arrays: list[list[mx.array]]
    ) -> tuple[mx.array, list[list[mx.array]]]:
        """Compute a step of which only shapes are known; returns its logits and memories."""
        held = [memory.arrays for memory in self._memories]
        kept = list(_arrays_in(self._model))
        rings = self.rings.followed(ring_arrays, self._longest)
        try:
            self._set(rings, arrays)
            logits = _step(self._model, tokens, self._caches)
            computed = [memory.arrays for memory in self._memories]
        finally:
            self._set(self.rings, held)
            changed = [str(each) for each in kept if each.restore()]
            self._was_asked |= rings.was_asked
        if changed:
            raise ValueError(f"{changed[0]} changes in each step")
        return logits, computed

    def _set(self, rings: Rings, arrays: Iterable[list[mx.array]]) -> None:
        for memory, own in zip(self._memories, arrays, strict=True):
            memory.rings, memory.arrays = rings, own


class _Kept:
    """An array that a module of a model keeps; one that a step leaves there would be lost."""

    def __init__(self, attributes: dict[str, Any], name: str) -> None:
        self._attributes, self._name, self._array = attributes, name, attributes[name]

    def __str__(self) -> str:
        return self._name

    def restore(self) -> bool:
        """Put it back; returns whether it was another one, and not the same anew."""
        now, self._attributes[self._name] = self._attributes.get(self._name), self._array
        return now is not self._array and not _equal(now, self._array)


def _equal(one: Any, other: Any) -> bool:
    try:
        return one is not None and other is not None and mx.array_equal(one, other).item() is True
    except ValueError:  # it depends on what the step is given
        return False


def _arrays_in(model: Any) -> Iterator[_Kept]:
    """All attributes of a model's modules that are arrays, or none yet."""
    parts = [model] if isinstance(model, nn.Module) else vars(model).values()
    for part in parts:
        for module in part.modules() if isinstance(part, nn.Module) else ():
            for attributes in (module, vars(module)):
                for name, value in attributes.items():
                    if value is None or isinstance(value, mx.array):
                        yield _Kept(attributes, name)
