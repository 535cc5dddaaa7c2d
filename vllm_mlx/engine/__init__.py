"""The asynchronous face of a model: one request at a time, or many in one batch."""

from vllm_mlx.engine.base import Engine
from vllm_mlx.engine.batched import BatchedEngine
from vllm_mlx.engine.simple import SimpleEngine

__all__ = ["BatchedEngine", "Engine", "SimpleEngine"]
