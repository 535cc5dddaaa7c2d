"""`Stream` and `AsyncStream`: an answer piece by piece, generated while it is iterated."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeAlias

from vllm_mlx.batching.request import Request
from vllm_mlx.outputs import GenerationOutput

Item: TypeAlias = GenerationOutput | Future[GenerationOutput]
"""A chunk; or the request's future, after the last chunk or instead of it."""
Futures: TypeAlias = list[Future[GenerationOutput]]


class Stream(Iterator[GenerationOutput]):
    """The chunks of one answer; the last one carries `finish_reason`.

    Generation begins with the first chunk. Leaving a loop over the stream ends it, even where a
    name still holds the stream; so do `close()` and dropping it. Chunks that are taken by `next()`
    alone leave it running.
    """

    def __init__(self, submit: Callable[[Request], Futures], request: Request) -> None:
        self._chunks = _chunks(submit, request)

    def __iter__(self) -> Iterator[GenerationOutput]:
        # Nothing but the loop holds this generator; dropping it closes the other one.
        yield from self._chunks

    def __next__(self) -> GenerationOutput:
        return next(self._chunks)

    def close(self) -> None:
        """End the generation; there are no more chunks."""
        self._chunks.close()


def _chunks(submit: Callable[[Request], Futures], request: Request) -> Generator[GenerationOutput]:
    items: queue.SimpleQueue[Item] = queue.SimpleQueue()
    (future,) = submit(replace(request, on_chunk=items.put))
    try:
        future.add_done_callback(items.put)
        while isinstance(item := items.get(), GenerationOutput):
            yield item
        item.result()
    finally:
        future.cancel()


class AsyncStream(AsyncIterator[GenerationOutput]):
    """The chunks of one answer, as of a `Stream`, for `async for`."""

    def __init__(self, submit: Callable[[Request], Awaitable[Futures]], request: Request) -> None:
        self._futures: Futures = []
        self._chunks = _async_chunks(submit, request, self._futures)

    async def __aiter__(self) -> AsyncGenerator[GenerationOutput]:
        try:
            async for chunk in self._chunks:
                yield chunk
        finally:  # as in `Stream.__iter__`, when the event loop finds it dropped
            for future in self._futures:
                future.cancel()

    async def __anext__(self) -> GenerationOutput:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """End the generation; there are no more chunks."""
        await self._chunks.aclose()


async def _async_chunks(
    submit: Callable[[Request], Awaitable[Futures]], request: Request, futures: Futures
) -> AsyncGenerator[GenerationOutput]:
    loop, items = asyncio.get_running_loop(), asyncio.Queue[Item]()

    def put(item: Item) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(items.put_nowait, item)

    futures += await submit(replace(request, on_chunk=put))
    (future,) = futures
    try:
        future.add_done_callback(put)
        while isinstance(item := await items.get(), GenerationOutput) and not future.cancelled():
            yield item
        if not future.cancelled():
            future.result()
    finally:
        future.cancel()
