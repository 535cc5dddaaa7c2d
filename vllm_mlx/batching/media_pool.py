"""`MediaPool`: prompts with media are read and decoded ahead of the engine, beside its thread."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from typing import Any, Protocol

from vllm_mlx.batching.prompts import MediaPrompt, Prepared
from vllm_mlx.errors import EngineStoppedError, RequestAbortedError
from vllm_mlx.outputs import GenerationOutput

MOST_THREADS = 8


class Preparer(Protocol):
    """What makes a prompt with media ready; `vllm_mlx.models.vision` has one."""

    def wait_for_room(self) -> None:
        """Return when more may be held in memory."""

    def prepare(self, prompt: MediaPrompt, sharers: int) -> Prepared:
        """Read the media and write the tokens."""

    def close(self) -> None:
        """Let go of what is held, and of whoever waits for room."""


class MediaPool:
    """Prepares prompts, the first ones first, as far ahead as there is room for them."""

    def __init__(self, preparer: Preparer) -> None:
        self._preparer = preparer
        threads = min(MOST_THREADS, os.cpu_count() or 1)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="media")
        self._lock = threading.Lock()
        self._waiting: Counter[tuple[Any, ...]] = Counter()
        self._futures: dict[str, Future[GenerationOutput]] = {}

    @property
    def waiting(self) -> int:
        """Requests that are not prepared yet."""
        return len(self._futures)

    def submit(
        self,
        prompt: MediaPrompt,
        futures: dict[str, Future[GenerationOutput]],
        then: Callable[[Prepared], None],
    ) -> None:
        """Call `then` on one of the pool's threads when the prompt is ready.

        Args:
            futures: the requests that wait for it, by id; an error is theirs, and if all are done,
                nobody waits.

        Raises:
            EngineStoppedError: the pool is closed.
        """
        key = _sources(prompt)
        with self._lock:
            self._waiting[key] += 1
            self._futures |= futures
        try:
            self._threads.submit(self._prepare, prompt, key, futures, then)
        except RuntimeError as error:
            raise EngineStoppedError("the engine is being stopped") from error

    def abort(self, request_id: str) -> None:
        """End a request that is not prepared yet; unknown ids are ignored."""
        with self._lock:
            future = self._futures.get(request_id)
        if future:
            fail(future, RequestAbortedError(f"request {request_id!r} was aborted"))

    def close(self) -> None:
        """Stop; what is not prepared yet gets `EngineStoppedError`."""
        self._preparer.close()
        self._threads.shutdown(cancel_futures=True)
        for future in self._futures.values():
            fail(future, EngineStoppedError("the engine was stopped"))

    def _prepare(
        self,
        prompt: MediaPrompt,
        key: tuple[Any, ...],
        futures: dict[str, Future[GenerationOutput]],
        then: Callable[[Prepared], None],
    ) -> None:
        try:
            self._preparer.wait_for_room()
            with self._lock:
                self._waiting[key] -= 1
                if not (sharers := self._waiting[key]):
                    del self._waiting[key]
            if not all(future.done() for future in futures.values()):
                then(self._preparer.prepare(prompt, sharers))
        except Exception as error:  # whatever a file, a codec or a host can do is this prompt's
            for future in futures.values():
                fail(future, error)
        finally:
            with self._lock:
                for request_id in futures:
                    del self._futures[request_id]


def fail(future: Future[GenerationOutput], error: Exception) -> None:
    """Set the exception of a future, unless it is done or cancelled already."""
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)


def _sources(prompt: MediaPrompt) -> tuple[Any, ...]:
    """What tells prompts of the same media from others before anything is read."""
    parts = [
        part
        for message in prompt.messages
        if not isinstance(message["content"], str)
        for part in message["content"]
    ]
    media = [part.get("image", part.get("video")) for part in parts if part["type"] != "text"]
    return tuple(each if isinstance(each, str) else id(each) for each in media)
