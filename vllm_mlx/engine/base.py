"""`Engine`: what `SimpleEngine` and `BatchedEngine` share, which is all but the width."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self, Unpack

from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.prompts import (
    Messages,
    Options,
    chat_prompt,
    split_options,
    user_prompt,
)
from vllm_mlx.batching.request import Request, new_request_id
from vllm_mlx.errors import EngineStoppedError
from vllm_mlx.media.policy import UNRESTRICTED, MediaPolicy, VideoReader
from vllm_mlx.models.loading import load_model
from vllm_mlx.outputs import EngineStats, GenerationOutput
from vllm_mlx.scheduler_config import SchedulerConfig


class Engine:
    """A model behind `async` calls. Using it before `start()` starts it."""

    def __init__(
        self,
        model_name: str,
        config: SchedulerConfig,
        *,
        trust_remote_code: bool = False,
        media_policy: MediaPolicy = UNRESTRICTED,
        video_reader: VideoReader = "auto",
    ) -> None:
        if video_reader != "auto":
            media_policy = replace(media_policy, video_reader=video_reader)
        self.model_name = model_name
        load = partial(load_model, trust_remote_code=trust_remote_code)
        self._core = EngineCore(model_name, load, config, media=media_policy)
        self._stopped = False

    async def start(self) -> None:
        """Load the model and wait until it is ready.

        Raises:
            ModelLoadError: it is missing, unreadable or of an unknown kind.
        """
        self._stopped = False
        await asyncio.to_thread(self._core.start)

    async def stop(self) -> None:
        """Free the model; calls that still wait raise `EngineStoppedError`."""
        self._stopped = True
        await asyncio.to_thread(self._core.stop)

    async def generate(
        self,
        prompt: str,
        *,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        request_id: str | None = None,
        **options: Unpack[Options],
    ) -> GenerationOutput:
        """Continue a plain prompt, or answer one about images and videos.

        Options and defaults: `SamplingParams`, and `VideoParams` for videos. Cancelling the call
        frees its place in the batch at once.

        Args:
            images: see `MLXMultimodalLM`; the prompt goes through the chat template, after them.
            videos: the same.
            request_id: a name for `abort()`.

        Raises:
            MediaError: an image or a video can't be read.
            InvalidRequestError: a value out of range, an unknown keyword, an empty prompt, or one
                beyond the model's context.
            EngineStoppedError: `stop()` was called.
            RequestAbortedError: `abort(request_id)` was called.
        """
        params, video = split_options(options)
        asked = user_prompt(prompt, images, videos, video)
        return await self._answer(Request(asked, params, request_id or new_request_id()))

    async def generate_samples(
        self,
        prompt: str,
        n: int,
        *,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        **options: Unpack[Options],
    ) -> list[GenerationOutput]:
        """`n` answers to one prompt, whose prefill is computed once; raises as `generate` does.

        With a seed the first is what `generate` gives with it, and all are repeatable.

        Raises:
            InvalidRequestError: `n > 1` at temperature 0.
        """
        params, video = split_options(options)
        asked = user_prompt(prompt, images, videos, video)
        futures = await self._submit(*(Request(asked, each) for each in params.for_samples(n)))
        return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))

    async def chat(
        self,
        messages: Messages,
        *,
        request_id: str | None = None,
        **options: Unpack[Options],
    ) -> GenerationOutput:
        """Answer a conversation with the model's own chat template; raises as `generate` does.

        Messages may hold images and videos among their parts; see `MLXMultimodalLM.chat`.

        Raises:
            ChatTemplateError: the model has no template, or it rejects the messages.
        """
        params, video = split_options(options)
        asked = chat_prompt(messages, video)
        return await self._answer(Request(asked, params, request_id or new_request_id()))

    async def stream_generate(
        self,
        prompt: str,
        *,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        request_id: str | None = None,
        **options: Unpack[Options],
    ) -> AsyncIterator[GenerationOutput]:
        """`generate`, piece by piece; the last chunk carries `finish_reason`.

        Leaving the loop early ends the generation.
        """
        params, video = split_options(options)
        asked = user_prompt(prompt, images, videos, video)
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[GenerationOutput | Future[GenerationOutput]] = asyncio.Queue()

        def put(item: GenerationOutput | Future[GenerationOutput]) -> None:
            loop.call_soon_threadsafe(chunks.put_nowait, item)

        (future,) = await self._submit(Request(asked, params, request_id or new_request_id(), put))
        future.add_done_callback(put)  # after the last chunk, or instead of it
        try:
            while isinstance(item := await chunks.get(), GenerationOutput):
                yield item
            item.result()
        finally:
            future.cancel()

    async def abort(self, request_id: str) -> None:
        """End a request; its call raises `RequestAbortedError`. Unknown ids are ignored."""
        self._core.abort(request_id)

    @property
    def stats(self) -> EngineStats:
        """Counts since the start: tokens, steps, what runs and what waits."""
        return self._core.stats

    async def _answer(self, request: Request) -> GenerationOutput:
        (future,) = await self._submit(request)
        return await asyncio.wrap_future(future)

    async def _submit(self, *requests: Request) -> list[Future[GenerationOutput]]:
        await self._ensure_running()
        return self._core.submit(*requests)

    async def _ensure_running(self) -> None:
        if not self._stopped and not self._core.is_running:
            await asyncio.to_thread(self._core.start)
        if self._stopped:  # before, or while the model was loading
            raise EngineStoppedError(f"the engine of {self.model_name} was stopped")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()
