"""`SimpleEngine`: one request at a time."""

from __future__ import annotations

from vllm_mlx.engine.base import Engine


class SimpleEngine(Engine):
    """Concurrent calls wait their turn, first come, first served."""

    def __init__(self, model_name: str, *, trust_remote_code: bool = False) -> None:
        super().__init__(model_name, max_num_seqs=1, trust_remote_code=trust_remote_code)
