"""`SimpleEngine`: one request at a time."""

from __future__ import annotations

from vllm_mlx.engine.base import Engine
from vllm_mlx.scheduler_config import SchedulerConfig


class SimpleEngine(Engine):
    """Concurrent calls wait their turn, first come, first served."""

    def __init__(self, model_name: str, *, trust_remote_code: bool = False) -> None:
        config = SchedulerConfig(max_num_seqs=1)
        super().__init__(model_name, config, trust_remote_code=trust_remote_code)
