"""`SimpleEngine`: one request at a time."""

from __future__ import annotations

from vllm_mlx.engine.base import Engine
from vllm_mlx.scheduler_config import SchedulerConfig


class SimpleEngine(Engine):
    """Concurrent calls wait their turn, first come, first served.

    That holds for lists, and for prompts with images and videos, too: they are read for the next
    call while the one before it is answered, and a call waits for those of the calls before it.
    """

    _config = SchedulerConfig(max_num_seqs=1)
