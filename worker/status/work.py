"""`Work`: what engines have done, in tokens and seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self

from vllm_mlx.outputs import Speeds
from worker.status.live import Live


@dataclass(frozen=True, slots=True)
class Work(Speeds):
    """Counts as in `EngineStats`; those of several workers add up."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    @classmethod
    def of(cls, live: Live) -> Self:
        """Return what a worker says it has done since it started."""
        return cls(**{each.name: getattr(live, each.name) for each in fields(cls)})

    @property
    def seconds(self) -> float:
        return self.prefill_seconds + self.decode_seconds

    def plus(self, other: Work) -> Work:
        return self._combined(other, lambda mine, its: mine + its)

    def less(self, other: Work) -> Work:
        """Return what was done since `other`."""
        return self._combined(other, lambda mine, its: max(0, mine - its))

    def _combined(self, other: Work, combine: Callable[[Any, Any], Any]) -> Work:
        names = [each.name for each in fields(self)]
        return Work(*(combine(getattr(self, name), getattr(other, name)) for name in names))
