"""`prompt_of`: a row's request as the engine takes it."""

from __future__ import annotations

from jobs.requests import GenerationRequest
from vllm_mlx.batching.prompts.prompt import MediaPrompt, Prompt
from vllm_mlx.video_params import VideoParams


def prompt_of(request: GenerationRequest, video: VideoParams, *, chat: bool) -> Prompt:
    """Return the prompt of a row.

    Args:
        video: what holds for videos where the row does not say it itself.
        chat: plain prompts go through the chat template.
    """
    if request.media:
        return MediaPrompt(request.chat(), request.over(video))
    if request.prompt is not None and not chat:
        return request.prompt
    return request.chat()
