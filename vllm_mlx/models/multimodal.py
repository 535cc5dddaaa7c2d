"""`MLXMultimodalLM`: a model that sees, for plain, synchronous use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack, overload

from vllm_mlx.batching.prompts.prompt import Options
from vllm_mlx.batching.request import Request
from vllm_mlx.batching.request_list import each_of, zip_media
from vllm_mlx.batching.stream import Stream
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.models.base import Model
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_options import MoreOptions
from vllm_mlx.video_params import VideoOptions

DESCRIPTION_TOKENS = 512

Source = Any
"""An image or a video; see `MLXMultimodalLM`."""
Media = Sequence[Source] | Source | None
"""A list of them, or just one."""


class MLXMultimodalLM(Model):
    """A vision-language model by name: a hub id or a local folder that mlx-vlm can load.

    Every prompt goes through the model's chat template. An image or a video is a path, a `file:`,
    `http(s):` or `data:` URL, base64, raw bytes, a PIL image or an array of pixels; a video also
    frames, as an array `[T, H, W, 3]` or a list of images.

    Example:
        >>> model = MLXMultimodalLM("mlx-community/Qwen3-VL-4B-Instruct-3bit")
        >>> model.answer_about_image("photo.jpg", "What color is the car?")
    """

    @overload
    def generate(
        self, prompt: str, images: Media = None, videos: Media = None, **options: Unpack[Options]
    ) -> GenerationOutput: ...
    @overload
    def generate(
        self,
        prompt: list[str] | tuple[str, ...],
        images: Sequence[Media] | None = None,
        videos: Sequence[Media] | None = None,
        **options: Unpack[Options],
    ) -> list[GenerationOutput]: ...
    def generate(
        self,
        prompt: str | list[str] | tuple[str, ...],
        images: Media = None,
        videos: Media = None,
        **options: Unpack[Options],
    ) -> GenerationOutput | list[GenerationOutput]:
        """Answer a prompt about images and videos, which the model sees before it, or several.

        Args:
            prompt: what the user says, through the model's chat template. Of a list with something
                wrong in it none is begun, and the error names the index.
            images: a list of them, or just one; of a list of prompts, a list with those of each.
            videos: the same.
            **options: see `SamplingParams` and `VideoParams`.

        Returns:
            The whole answer; its `media` says what the model saw. Of a list, a list of them.

        Raises:
            MediaError: one of them can't be read; the message says which, why and what to do.
            InvalidRequestError: a value out of range, an unknown keyword, an empty prompt, or one
                beyond the model's context.
            ModelLoadError: the model was not loaded yet and can't be.
        """
        if isinstance(prompt, list | tuple):
            asked = zip_media(prompt, images, videos)
            return self._all(each_of(asked, lambda each: _request(*each, options)))
        return self._answers(_request(prompt, images, videos, options))[0]

    def generate_samples(
        self,
        prompt: str,
        n: int,
        images: Media = None,
        videos: Media = None,
        **options: Unpack[Options],
    ) -> list[GenerationOutput]:
        """Answer a prompt `n` times; takes what `generate` takes and reads its media once.

        Args:
            n: how many answers. With a seed all are repeatable, and the first is `generate`'s.

        Returns:
            The answers.

        Raises:
            InvalidRequestError: as for `generate`, or `n > 1` at temperature 0.
            MediaError, ModelLoadError: as for `generate`.
        """
        return self._answers(*_request(prompt, images, videos, options).samples(n))

    def stream_generate(
        self, prompt: str, images: Media = None, videos: Media = None, **options: Unpack[Options]
    ) -> Stream:
        """Answer a prompt about images and videos, piece by piece; takes what `generate` takes.

        Returns:
            A stream; it begins with the first chunk, and leaving a loop over it ends it.

        Raises:
            InvalidRequestError: an argument is wrong; what is found later is the stream's.
        """
        return Stream(self._submit, _request(prompt, images, videos, options))

    def describe_image(
        self,
        image: Source,
        prompt: str = "Describe this image in detail.",
        max_tokens: int | None = None,
        **options: Unpack[MoreOptions],
    ) -> str:
        """Describe an image.

        Args:
            max_tokens: most tokens to generate; 512 by default.
            **options: see `SamplingParams`.

        Returns:
            The text of the description.

        Raises:
            MediaError, InvalidRequestError, ModelLoadError: as for `generate`.
        """
        most = DESCRIPTION_TOKENS if max_tokens is None else max_tokens
        return self.generate(prompt, images=[image], max_tokens=most, **options).text

    def answer_about_image(
        self,
        image: Source,
        question: str,
        max_tokens: int | None = None,
        **options: Unpack[MoreOptions],
    ) -> str:
        """Answer a question about an image.

        Args:
            max_tokens: most tokens to generate; 256 by default.
            **options: see `SamplingParams`.

        Returns:
            The text of the answer.

        Raises:
            MediaError, InvalidRequestError, ModelLoadError: as for `generate`.
        """
        return self.generate(question, images=[image], max_tokens=max_tokens, **options).text

    def describe_video(
        self,
        video: Source,
        prompt: str = "Describe what happens in this video.",
        fps: float | None = None,
        max_frames: int | None = None,
        max_tokens: int | None = None,
        **options: Unpack[MoreOptions],
    ) -> str:
        """Describe what happens in a video.

        Args:
            fps: frames per second to look at; 2.0 by default.
            max_frames: most frames to look at; 32 by default.
            max_tokens: most tokens to generate; 512 by default.
            **options: see `SamplingParams`.

        Returns:
            The text of the description.

        Raises:
            MediaError, InvalidRequestError, ModelLoadError: as for `generate`.
        """
        for name, here in (("video_fps", "fps"), ("video_max_frames", "max_frames")):
            if name in options:  # the other calls' name, which would be given twice
                raise InvalidRequestError(f"{name}: describe_video takes it as {here}")
        most = DESCRIPTION_TOKENS if max_tokens is None else max_tokens
        frames: VideoOptions = {"video_fps": fps, "video_max_frames": max_frames}
        return self.generate(prompt, None, [video], max_tokens=most, **frames, **options).text


def _request(prompt: str, images: Media, videos: Media, options: Options) -> Request:
    request = Request.of_user(prompt, options, images, videos)
    if isinstance(request.prompt, str):  # said through the chat template, too
        return replace(request, prompt=[{"role": "user", "content": request.prompt}])
    return request
