"""`MediaPool`: prompts with media are read and decoded ahead of the engine, beside its thread."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from vllm_mlx.batching.prompts import MediaPrompt, Prepared
from vllm_mlx.errors import EngineStoppedError, InvalidRequestError, RequestAbortedError
from vllm_mlx.outputs import GenerationOutput

THREADS = 16
"""More than cores: a thread that fetches from a slow host computes nothing meanwhile."""


class Preparer(Protocol):
    """Prepares prompts with media; `vllm_mlx.models.vision` has one."""

    def wait_for_room(self) -> None:
        """Return when more may be held in memory."""

    def prepare(self, prompt: MediaPrompt) -> Prepared:
        """Read the media and write the tokens."""

    def close(self) -> None:
        """Free what is held, and wake the threads that wait for room."""


class _Job(NamedTuple):
    """A prompt, the requests that wait for it by id, and what to do when it is ready."""

    prompt: MediaPrompt
    futures: dict[str, Future[GenerationOutput]]
    then: Callable[[Prepared], None]


class MediaPool:
    """Prepares prompts, the first ones first, as far ahead as there is room for them.

    Prompts of the same media are prepared on one thread: the others would only wait for the first.
    """

    def __init__(self, preparer: Preparer) -> None:
        self._preparer = preparer
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="media")
        self._lock = threading.RLock()  # a future may be cancelled by garbage collection
        self._groups: dict[Hashable, deque[_Job]] = {}
        self._futures: dict[str, Future[GenerationOutput]] = {}
        self._is_closed = False

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
            futures: the requests that wait for it, by id; an error is set on them. If all are
                done, the prompt is not prepared.

        Raises:
            InvalidRequestError: a request of one of these ids is being prepared already.
            EngineStoppedError: the pool is closed.
        """
        job, key = _Job(prompt, futures, then), _sources(prompt)
        with self._lock:
            if self._is_closed:
                raise EngineStoppedError("the engine is being stopped")
            for name in futures.keys() & self._futures.keys():
                raise InvalidRequestError(f"request_id={name!r}: still running under it")
            self._futures |= futures
            if key in self._groups:
                self._groups[key].append(job)
            else:
                self._begin_group(key, job)
        for name, future in futures.items():
            future.add_done_callback(partial(self._forget, name))

    def abort(self, request_id: str) -> None:
        """End a request that is not prepared yet; unknown ids are ignored."""
        with self._lock:
            future = self._futures.get(request_id)
        if future:
            fail(future, RequestAbortedError(f"request {request_id!r} was aborted"))

    def close(self) -> None:
        """Stop; what is not prepared yet gets `EngineStoppedError`.

        Media at hand are not waited for, since a download may take a minute.
        """
        with self._lock:
            self._is_closed = True
            futures = list(self._futures.values())
        self._threads.shutdown(wait=False, cancel_futures=True)
        for future in futures:
            fail(future, EngineStoppedError("the engine was stopped"))
        self._preparer.close()

    def _begin_group(self, key: Hashable, job: _Job) -> None:
        self._groups[key] = deque([job])
        self._threads.submit(self._prepare_group, key)

    def _prepare_group(self, key: Hashable) -> None:
        """Prepare a group; each prompt is handed over when the next one holds the media, too."""
        self._preparer.wait_for_room()
        before: tuple[_Job, Prepared] | None = None
        while job := self._next(key):
            if prepared := self._prepared(job):
                if before:
                    with self._lock:
                        sharers = 1 + len(self._groups[key])
                    self._hand_over(*before, sharers)
                before = job, prepared
            else:
                self._scatter(key)
        if before:
            self._hand_over(*before)

    def _next(self, key: Hashable) -> _Job | None:
        """Return the next job of a group whose futures are not all done."""
        with self._lock:
            group = self._groups[key]
            while group:
                job = group.popleft()
                if not all(future.done() for future in job.futures.values()):
                    return job
            del self._groups[key]
            return None

    def _scatter(self, key: Hashable) -> None:
        """Let the others of a group fail (or not) side by side: each may wait for a dead host."""
        with self._lock:
            group = self._groups[key]
            if not self._is_closed:
                for job in group:
                    self._begin_group(object(), job)
                group.clear()

    def _prepared(self, job: _Job) -> Prepared | None:
        try:
            return self._preparer.prepare(job.prompt)
        except Exception as error:  # whatever a file, a codec or a host raises
            _fail_all(job, error)
            return None

    def _hand_over(self, job: _Job, prepared: Prepared, sharers: int = 0) -> None:
        try:
            job.then(prepared.shared_by(sharers))
        except Exception as error:
            _fail_all(job, error)
        for name, future in job.futures.items():
            self._forget(name, future)

    def _forget(self, name: str, future: Future[GenerationOutput]) -> None:
        with self._lock:
            if self._futures.get(name) is future:
                del self._futures[name]


def _fail_all(job: _Job, error: Exception) -> None:
    for future in job.futures.values():
        fail(future, error)


def fail(future: Future[GenerationOutput], error: Exception) -> None:
    """Set the exception of a future, unless it is done or cancelled already."""
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)


def _sources(prompt: MediaPrompt) -> Hashable:
    """Return a key that prompts of the same media share, known before anything is read."""
    media = [part[part["type"]] for part in prompt.media]
    known = [each if isinstance(each, str | bytes | Path) else id(each) for each in media]
    return prompt.video, *known
