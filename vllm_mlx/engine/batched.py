"""`BatchedEngine`: many requests in one batch."""

from __future__ import annotations

from pathlib import Path

from vllm_mlx.engine.base import Engine
from vllm_mlx.media.policy import UNRESTRICTED, MediaPolicy, VideoReader
from vllm_mlx.scheduler_config import SchedulerConfig


class BatchedEngine(Engine):
    """Concurrent calls share every step of the model, each with its own sampling parameters.

    They join the batch first come, first served; prompts with images and videos when these are
    read, so that a slow one holds nothing back. With `max_num_seqs=1` it is a `SimpleEngine`.

    Args:
        max_num_seqs: most requests in the batch; more than that wait.
        max_num_batched_tokens: most prompt tokens computed between two decode steps.
        kv_cache_bytes: most memory for key-value caches, in bytes or as "8GiB".
        adapter_path: a folder that mlx_lm.lora has written, LoRA or DoRA.
        media_policy: what may be read and fetched for a prompt; by default whatever it names.
        video_reader: see `MediaPolicy.video_reader`; `auto` leaves it to the policy.

    What is None takes the backend's default; see `SchedulerConfig`.
    """

    def __init__(
        self,
        model_name: str,
        *,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        kv_cache_bytes: int | str | None = None,
        adapter_path: str | Path | None = None,
        trust_remote_code: bool = False,
        media_policy: MediaPolicy = UNRESTRICTED,
        video_reader: VideoReader = "auto",
    ) -> None:
        self._config = SchedulerConfig.of(
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            kv_cache_bytes=kv_cache_bytes,
        )
        super().__init__(
            model_name,
            adapter_path=adapter_path,
            trust_remote_code=trust_remote_code,
            media_policy=media_policy,
            video_reader=video_reader,
        )
