"""`BatchedEngine`: many requests in one batch."""

from __future__ import annotations

from vllm_mlx.engine.base import Engine

DEFAULT_MAX_NUM_SEQS = 32


class BatchedEngine(Engine):
    """Concurrent calls share every step of the model, each with its own sampling parameters.

    Args:
        max_num_seqs: most requests in the batch; more than that wait, first come, first served.
    """

    def __init__(
        self,
        model_name: str,
        *,
        max_num_seqs: int = DEFAULT_MAX_NUM_SEQS,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(model_name, max_num_seqs=max_num_seqs, trust_remote_code=trust_remote_code)
