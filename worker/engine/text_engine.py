"""`TextEngine` and `WorkerEngine`: what an engine's process and a worker need of an engine."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from typing import Protocol

from vllm_mlx.batching.request import Request
from vllm_mlx.outputs import EngineStats, GenerationOutput


class TextEngine(Protocol):
    """`vllm_mlx.batching.core.EngineCore`, or one in another process."""

    max_num_seqs: int

    @property
    def stats(self) -> EngineStats:
        """Counts since the start."""

    def start(self) -> None:
        """Load the model, unless it is loaded."""

    def stop(self) -> None:
        """Free the model."""

    def submit(self, *requests: Request) -> list[Future[GenerationOutput]]:
        """Queue requests; see `vllm_mlx.batching.core.EngineCore`."""


class WorkerEngine(TextEngine, Protocol):
    """An engine that knows which rows it has not begun."""

    def cancel_waiting(self, futures: Iterable[Future[GenerationOutput]]) -> None:
        """Cancel those of these rows on which no work has begun."""
