"""`EngineCalls`: what an engine is asked, as prompts, chats and lists of them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Unpack, overload

from vllm_mlx.batching.prompts.prompt import Messages, MoreMediaOptions, Options
from vllm_mlx.batching.request import Request, cancelled_on_error
from vllm_mlx.batching.request_list import are_chats, each_of, naming, zip_media
from vllm_mlx.batching.stream import AsyncStream
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.models.multimodal import Media
from vllm_mlx.outputs import GenerationOutput


class EngineCalls(ABC):
    """The calls of an engine."""

    @overload
    async def generate(
        self,
        prompt: str,
        max_tokens: int | None = None,
        *,
        images: Media = None,
        videos: Media = None,
        request_id: str | None = None,
        **options: Unpack[MoreMediaOptions],
    ) -> GenerationOutput: ...
    @overload
    async def generate(
        self,
        prompt: list[str] | tuple[str, ...],
        max_tokens: int | None = None,
        *,
        images: Sequence[Media] | None = None,
        videos: Sequence[Media] | None = None,
        **options: Unpack[MoreMediaOptions],
    ) -> list[GenerationOutput]: ...
    async def generate(
        self,
        prompt: str | list[str] | tuple[str, ...],
        max_tokens: int | None = None,
        *,
        images: Media = None,
        videos: Media = None,
        request_id: str | None = None,
        **options: Unpack[MoreMediaOptions],
    ) -> GenerationOutput | list[GenerationOutput]:
        """Continue a plain prompt, or answer one about images and videos; or a list of them.

        Cancelling the call frees its place in the batch at once.

        Args:
            prompt: continued as it stands; with images or videos it goes through the model's chat
                template, after them. Of a list with something wrong in it none is begun, and the
                error names the index.
            max_tokens: most tokens to generate; 256 by default.
            images: a list of them, or just one; see `MLXMultimodalLM`. Of a list of prompts, a list
                with those of each.
            videos: the same.
            request_id: a name for `abort()`, of one prompt.
            **options: see `SamplingParams`, and `VideoParams` for videos.

        Returns:
            The whole output; of a list, a list of them, in order.

        Raises:
            MediaError: an image or a video can't be read.
            InvalidRequestError: a value out of range, an unknown keyword, an empty prompt, or one
                beyond the model's context.
            EngineStoppedError: `stop()` was called.
            RequestAbortedError: `abort(request_id)` was called.
        """
        given: Options = {"max_tokens": max_tokens, **options}
        if isinstance(prompt, list | tuple):
            _refuse_name(request_id)
            asked = zip_media(prompt, images, videos)
            return await self._all(
                each_of(asked, lambda each: Request.of_user(each[0], given, each[1], each[2]))
            )
        request = Request.of_user(prompt, given, images, videos, request_id)
        return (await self._answers(request))[0]

    async def generate_samples(
        self,
        prompt: str,
        n: int,
        max_tokens: int | None = None,
        *,
        images: Media = None,
        videos: Media = None,
        **options: Unpack[MoreMediaOptions],
    ) -> list[GenerationOutput]:
        """Answer a prompt `n` times; takes what `generate` takes and reads its media once.

        Args:
            n: how many answers. With a seed all are repeatable, and the first is `generate`'s.

        Returns:
            The answers.

        Raises:
            InvalidRequestError: as for `generate`, or `n > 1` at temperature 0.
            MediaError, EngineStoppedError: as for `generate`.
        """
        request = Request.of_user(prompt, {"max_tokens": max_tokens, **options}, images, videos)
        return await self._answers(*request.samples(n))

    @overload
    async def chat(
        self,
        messages: Messages,
        max_tokens: int | None = None,
        *,
        request_id: str | None = None,
        **options: Unpack[MoreMediaOptions],
    ) -> GenerationOutput: ...
    @overload
    async def chat(
        self,
        messages: Sequence[Messages],
        max_tokens: int | None = None,
        **options: Unpack[MoreMediaOptions],
    ) -> list[GenerationOutput]: ...
    async def chat(
        self,
        messages: Messages | Sequence[Messages],
        max_tokens: int | None = None,
        *,
        request_id: str | None = None,
        **options: Unpack[MoreMediaOptions],
    ) -> GenerationOutput | list[GenerationOutput]:
        """Answer a conversation by the model's own chat template, or several in one batch.

        Args:
            messages: as for `MLXMultimodalLM.chat`, with images and videos among their parts.

        Returns:
            The whole answer; of several conversations, a list of them, in order.

        Raises:
            ChatTemplateError: the model has no template, or it rejects the messages.
            MediaError, InvalidRequestError, EngineStoppedError, RequestAbortedError: as for
                `generate`.
        """
        given: Options = {"max_tokens": max_tokens, **options}
        if are_chats(messages):
            _refuse_name(request_id)
            return await self._all(each_of(messages, lambda chat: Request.of_chat(chat, given)))
        return (await self._answers(Request.of_chat(messages, given, request_id)))[0]

    def stream_generate(
        self,
        prompt: str,
        max_tokens: int | None = None,
        *,
        images: Media = None,
        videos: Media = None,
        request_id: str | None = None,
        **options: Unpack[MoreMediaOptions],
    ) -> AsyncStream:
        """Answer a prompt, piece by piece; takes what `generate` takes.

        Returns:
            A stream; it begins with the first chunk, and leaving a loop over it ends it.

        Raises:
            InvalidRequestError: an argument is wrong; what is found later is the stream's.
        """
        request = Request.of_user(
            prompt, {"max_tokens": max_tokens, **options}, images, videos, request_id
        )
        return AsyncStream(self._submit, request)

    def stream_chat(
        self,
        messages: Messages,
        max_tokens: int | None = None,
        *,
        request_id: str | None = None,
        **options: Unpack[MoreMediaOptions],
    ) -> AsyncStream:
        """Answer a conversation, piece by piece; takes what `chat` takes.

        Returns:
            A stream, as of `stream_generate`.

        Raises:
            InvalidRequestError: an argument is wrong; what is found later is the stream's.
        """
        request = Request.of_chat(messages, {"max_tokens": max_tokens, **options}, request_id)
        return AsyncStream(self._submit, request)

    async def _answers(self, *requests: Request) -> list[GenerationOutput]:
        futures = await self._submit(*requests)
        with cancelled_on_error(futures):
            return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))

    async def _all(self, requests: list[Request]) -> list[GenerationOutput]:
        """Answer what belongs to one call: if something is wrong with one, none is begun."""
        futures = await self._submit(*requests, all_or_none=True)
        outputs = []
        with cancelled_on_error(futures):
            for at, future in enumerate(futures):
                with naming(at):
                    outputs.append(await asyncio.wrap_future(future))
        return outputs

    @abstractmethod
    async def _submit(
        self, *requests: Request, all_or_none: bool = False
    ) -> list[Future[GenerationOutput]]:
        """Start the engine if need be, and queue these."""


def _refuse_name(request_id: str | None) -> None:
    if request_id is not None:
        raise InvalidRequestError(
            f"request_id={request_id!r}: names one request, and these are several; leave it out"
        )
