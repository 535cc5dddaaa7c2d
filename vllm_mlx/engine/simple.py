"""`SimpleEngine`: one request at a time."""

from __future__ import annotations

from vllm_mlx.engine.base import Engine
from vllm_mlx.scheduler_config import SchedulerConfig


class SimpleEngine(Engine):
    """Concurrent calls wait their turn, first come, first served."""

    _config = SchedulerConfig(max_num_seqs=1)
