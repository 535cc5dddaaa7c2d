"""`MLXMultimodalLM`: a model that sees, for plain, synchronous use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Unpack

from vllm_mlx.batching.prompts import (
    Messages,
    Options,
    Prompt,
    chat_prompt,
    split_options,
    user_prompt,
)
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.media.policy import UNRESTRICTED, VideoReader
from vllm_mlx.models.language import MLXLanguageModel
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingOptions
from vllm_mlx.video_params import VideoParams

DESCRIPTION_TOKENS = 512
_VIDEO = VideoParams.of()

Source = Any
"""An image or a video: a path, a `file:`, `http(s):` or `data:` URL, base64, raw bytes, a PIL image
or an array of pixels; for a video also frames, as an array `[T, H, W, 3]` or a list of images."""


class MLXMultimodalLM(MLXLanguageModel):
    """A vision-language model by name: a hub id or a local folder that mlx-vlm can load.

    Everything is said through the model's chat template. Options and defaults are those of
    `SamplingParams`; of videos, `video_fps` frames a second are looked at, at most
    `video_max_frames` (`VideoParams`).

    Example:
        >>> model = MLXMultimodalLM("mlx-community/Qwen3-VL-4B-Instruct-3bit")
        >>> model.answer_about_image("photo.jpg", "What color is the car?")
    """

    def __init__(
        self,
        model_name: str,
        *,
        trust_remote_code: bool = False,
        video_reader: VideoReader = "auto",
    ) -> None:
        """
        Args:
            video_reader: see `MediaPolicy.video_reader`.
        """
        self._media = replace(UNRESTRICTED, video_reader=video_reader)
        super().__init__(model_name, trust_remote_code=trust_remote_code)

    def generate(
        self,
        prompt: str,
        *,
        images: Sequence[Source] | None = None,
        videos: Sequence[Source] | None = None,
        **options: Unpack[Options],
    ) -> GenerationOutput:
        """Answer a prompt about images and videos, which the model sees before it.

        Raises:
            MediaError: one of them can't be read; the message says which, why and what to do.
            InvalidRequestError: a value out of range, an unknown keyword, an empty prompt, or one
                beyond the model's context.
            ModelLoadError: the model was not loaded yet and can't be.
        """
        params, video = split_options(options)
        return self._submit(_asked(prompt, images, videos, video), params).result()

    def generate_samples(
        self,
        prompt: str,
        n: int,
        *,
        images: Sequence[Source] | None = None,
        videos: Sequence[Source] | None = None,
        **options: Unpack[Options],
    ) -> list[GenerationOutput]:
        """`n` answers to one prompt, whose media and prefill are computed once.

        Raises:
            InvalidRequestError: as for `generate`, or `n > 1` at temperature 0.
        """
        params, video = split_options(options)
        return self._samples(_asked(prompt, images, videos, video), params.for_samples(n))

    def chat(self, messages: Messages, **options: Unpack[Options]) -> GenerationOutput:
        """Answer a conversation whose messages may hold images and videos among their parts.

        Parts are OpenAI's (`image_url`, `video_url`) or `{"type": "image", "image": source}`.

        Raises:
            ChatTemplateError: the model has no chat template, or it rejects the messages.
            MediaError, InvalidRequestError: as for `generate`.
        """
        params, video = split_options(options)
        return self._submit(chat_prompt(messages, video), params).result()

    def stream_generate(
        self,
        prompt: str,
        *,
        images: Sequence[Source] | None = None,
        videos: Sequence[Source] | None = None,
        **options: Unpack[Options],
    ) -> Iterator[GenerationOutput]:
        """`generate`, piece by piece; the last chunk carries `finish_reason`.

        Starts with the first `next()`; leaving the loop early ends the generation.
        """
        params, video = split_options(options)
        return self._stream(_asked(prompt, images, videos, video), params)

    def describe_image(
        self,
        image: Source,
        prompt: str = "Describe this image in detail.",
        **options: Unpack[SamplingOptions],
    ) -> str:
        """What is in an image, as text of at most 512 tokens unless `max_tokens` says otherwise;
        raises as `generate` does."""
        options.setdefault("max_tokens", DESCRIPTION_TOKENS)
        return self.generate(prompt, images=[image], **options).text

    def answer_about_image(
        self, image: Source, question: str, **options: Unpack[SamplingOptions]
    ) -> str:
        """The answer to a question about an image, as text; raises as `generate` does."""
        return self.generate(question, images=[image], **options).text

    def describe_video(
        self,
        video: Source,
        prompt: str = "Describe what happens in this video.",
        *,
        fps: float = _VIDEO.video_fps,
        max_frames: int = _VIDEO.video_max_frames,
        **options: Unpack[SamplingOptions],
    ) -> str:
        """What happens in a video, as text of at most 512 tokens unless `max_tokens` says
        otherwise; raises as `generate` does.

        Args:
            fps: `video_fps` of `VideoParams`.
            max_frames: `video_max_frames` of `VideoParams`.
        """
        for name, here in (("video_fps", "fps"), ("video_max_frames", "max_frames")):
            if name in options:  # the other calls' name, which would be given twice
                raise InvalidRequestError(f"{name}: describe_video takes it as {here}")
        options.setdefault("max_tokens", DESCRIPTION_TOKENS)
        return self.generate(
            prompt, videos=[video], video_fps=fps, video_max_frames=max_frames, **options
        ).text


def _asked(
    prompt: str,
    images: Sequence[Source] | None,
    videos: Sequence[Source] | None,
    video: VideoParams | None,
) -> Prompt:
    asked = user_prompt(prompt, images, videos, video)
    return [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
