"""`Layout`: what each layer of a model remembers of a sequence, and how much memory that takes.

A model says so by the caches that it makes for mlx-lm. Slots have a form for those of this table; a
model with another one runs in a fallback.

| cache | remembers |
|---|---|
| `KVCache` | keys and values of all tokens |
| `RotatingKVCache`, `keep` 0 | those of the last `max_size` |
| `ArraysCache` | a state of fixed size |
| `CacheList` | several of these |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx

from vllm_mlx.batching.slots.keys_values import PromptKVCache, SlotKVCache
from vllm_mlx.batching.slots.memory import PromptMemory, Saved, SlotMemory
from vllm_mlx.batching.slots.positions import PromptPositions
from vllm_mlx.batching.slots.ring import window_columns
from vllm_mlx.batching.slots.rings import Rings
from vllm_mlx.batching.slots.states import PromptStates, SlotStates


class UnsuitableCacheError(Exception):
    """A model remembers what slots have no form for."""


class Kind(Protocol):
    """One way to remember a sequence."""

    def new_slots(self, rings: Rings) -> SlotMemory: ...

    def new_prompts(
        self, positions: PromptPositions, stop: int, prefix: Saved | None
    ) -> PromptMemory: ...

    def joined(self, chain: Seq[Saved]) -> Saved:
        """Return what is kept of a prefix as a whole; `chain` is its parts, the root first."""


@dataclass(frozen=True)
class KeysAndValues:
    """Keys and values of all tokens, or of the last `window`."""

    window: int | None = None

    def __str__(self) -> str:
        return "keys and values" if self.window is None else f"a window of {self.window:,} tokens"

    def new_slots(self, rings: Rings) -> SlotKVCache:
        return SlotKVCache(rings, self.window)

    def new_prompts(
        self, positions: PromptPositions, stop: int, prefix: Saved | None
    ) -> PromptKVCache:
        return PromptKVCache(positions, stop, prefix, self.window)

    def joined(self, chain: Seq[Saved]) -> Saved:
        whole = (_concatenate(parts) for parts in zip(*chain, strict=True))
        return tuple(each if self.window is None else each[:, :, -self.window :] for each in whole)


@dataclass(frozen=True)
class States:
    """A state of `size` arrays."""

    size: int

    def __str__(self) -> str:
        return "a state"

    def new_slots(self, rings: Rings) -> SlotStates:
        return SlotStates(self.size, rings)

    def new_prompts(
        self,
        positions: PromptPositions,
        stop: int,  # noqa: ARG002
        prefix: Saved | None,
    ) -> PromptStates:
        return PromptStates(self.size, positions, prefix or ())

    def joined(self, chain: Seq[Saved]) -> Saved:
        return chain[-1]


def _concatenate(parts: Seq[mx.array]) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(list(parts), axis=2)


@dataclass(frozen=True)
class Layout:
    """The memories of a model, layer after layer.

    Attributes:
        kinds: of all layers; one with several memories has them in a row.
        counts: how many of them each layer has; None where it takes its one as it is.
    """

    kinds: tuple[Kind, ...]
    counts: tuple[int | None, ...]

    @classmethod
    def of(cls, caches: Seq[Any]) -> Layout:
        """Return the layout of a model that makes these caches.

        Raises:
            UnsuitableCacheError: one of them is not in the table.
        """
        parts = [each.caches if type(each).__name__ == "CacheList" else None for each in caches]
        flat = [
            each
            for cache, several in zip(caches, parts, strict=True)
            for each in (several or [cache])
        ]
        counts = tuple(several and len(several) for several in parts)
        return cls(tuple(_kind(cache) for cache in flat), counts)

    def __str__(self) -> str:
        counts = Counter(map(str, self.kinds))
        return ", ".join(f"{count} x {kind}" for kind, count in counts.items())

    @property
    def has_states(self) -> bool:
        return any(isinstance(kind, States) for kind in self.kinds)

    @property
    def windows(self) -> set[int | None]:
        """How far back keys and values go, None for all."""
        return {kind.window for kind in self.kinds if isinstance(kind, KeysAndValues)}

    def new_slots(self, rings: Rings) -> list[SlotMemory]:
        return [kind.new_slots(rings) for kind in self.kinds]

    def new_prompts(
        self, positions: PromptPositions, stop: int, prefixes: Seq[Saved] | None = None
    ) -> list[PromptMemory]:
        """Return the memories of prompts in prefill.

        Args:
            stop: tokens of each row in the end, shared prefix and padding included.
            prefixes: what the rows go on from, for each memory.
        """
        given: Seq[Saved | None] = prefixes or [None] * len(self.kinds)
        return [
            kind.new_prompts(positions, stop, prefix)
            for kind, prefix in zip(self.kinds, given, strict=True)
        ]

    def nested(self, memories: Seq[Any]) -> list[Any]:
        """Return memories as the model takes its caches, one a layer."""
        flat = iter(memories)
        return [
            next(flat) if count is None else tuple(next(flat) for _ in range(count))
            for count in self.counts
        ]

    def alone(self, model: Any, stop: int) -> Callable[[list[int]], mx.array]:
        """Return what computes one row of `stop` tokens, piece after piece: logits `[1, L, V]`."""
        positions = PromptPositions(0)
        caches, computed = self.nested(self.new_prompts(positions, stop)), 0

        def compute(tokens: list[int]) -> mx.array:
            nonlocal computed
            positions.move_to(computed, None)
            computed += len(tokens)
            logits: mx.array = model(mx.array([tokens]), cache=caches)
            return logits

        return compute

    def footprint(self, model: Any) -> Footprint:
        """Measure what each memory takes, by a prompt of two tokens, one after the other.

        Raises:
            UnsuitableCacheError: what the model keeps as a state grows with the tokens.
        """
        positions = PromptPositions(0)
        memories = self.new_prompts(positions, 2)
        caches, sizes = self.nested(memories), []
        for token in range(2):
            positions.move_to(token, None)
            model(mx.array([[0]]), cache=caches)
            sizes.append([sum(array.nbytes for array in memory.arrays) for memory in memories])
        windows: Counter[int | None] = Counter()
        state = 0
        for kind, one, two in zip(self.kinds, *sizes, strict=True):
            if isinstance(kind, KeysAndValues):
                windows[kind.window] += one
            elif one == two:
                state += one
            else:
                raise UnsuitableCacheError("what it keeps as a state grows with the tokens")
        per_token = windows.pop(None, 0)
        return Footprint(per_token, tuple((w, each) for w, each in windows.items() if w), state)


def _kind(cache: Any) -> Kind:
    # By name: mlx-lm and mlx-vlm have classes of their own, which are alike.
    name = type(cache).__name__
    if name in ("KVCache", "SimpleKVCache"):
        return KeysAndValues()
    if name in ("RotatingKVCache", "BufferedRotatingKVCache") and not cache.keep:
        return KeysAndValues(cache.max_size)
    if name == "ArraysCache":
        return States(len(cache.cache))
    raise UnsuitableCacheError(f"slots have no form for its {name}")


@dataclass(frozen=True)
class Footprint:
    """The bytes that one sequence takes.

    Attributes:
        per_token: of the keys and values that see all tokens.
        windows: `(window, bytes per token)` of those that see the last few.
        state: what does not grow with the tokens.
    """

    per_token: int
    windows: tuple[tuple[int, int], ...] = ()
    state: int = 0

    def slot(self, columns: int) -> int:
        """Bytes of one slot of a ring with so many columns."""
        held = sum(window_columns(window, columns) * nbytes for window, nbytes in self.windows)
        return columns * self.per_token + held + self.state

    def prompt(self, tokens: int) -> int:
        """Bytes of one row in prefill, whose layers keep all tokens until it joins."""
        return tokens * (self.per_token + sum(nbytes for _, nbytes in self.windows)) + self.state

    def prefix(self, start: int, stop: int) -> int:
        """Bytes kept of a shared prefix that goes on from another one at `start`."""
        kept = sum(min(stop - start, window) * nbytes for window, nbytes in self.windows)
        return (stop - start) * self.per_token + kept + self.state
