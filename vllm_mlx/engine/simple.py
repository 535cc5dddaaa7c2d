"""`SimpleEngine`: one request at a time."""

from __future__ import annotations

from vllm_mlx.engine.base import Engine
from vllm_mlx.media.policy import UNRESTRICTED, MediaPolicy, VideoReader
from vllm_mlx.scheduler_config import SchedulerConfig


class SimpleEngine(Engine):
    """Concurrent calls wait their turn, first come, first served.

    Args:
        media_policy: what may be read and fetched for a prompt; by default whatever it names.
        video_reader: see `MediaPolicy.video_reader`; `auto` leaves it to the policy.
    """

    def __init__(
        self,
        model_name: str,
        *,
        trust_remote_code: bool = False,
        media_policy: MediaPolicy = UNRESTRICTED,
        video_reader: VideoReader = "auto",
    ) -> None:
        config = SchedulerConfig(max_num_seqs=1)
        super().__init__(
            model_name,
            config,
            trust_remote_code=trust_remote_code,
            media_policy=media_policy,
            video_reader=video_reader,
        )
