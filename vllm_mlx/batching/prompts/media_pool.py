"""`MediaPool`: prompts with media are read and decoded ahead of the engine, beside its thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

from vllm_mlx.batching.prompts.prompt import MediaPrompt, Prepared
from vllm_mlx.batching.request import fail
from vllm_mlx.errors import EngineStoppedError
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
    """A prompt, the requests that wait for it, and what to do when it is ready."""

    prompt: MediaPrompt
    futures: list[Future[GenerationOutput]]
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
        self._is_closed = False

    def submit(
        self,
        prompt: MediaPrompt,
        futures: list[Future[GenerationOutput]],
        then: Callable[[Prepared], None],
    ) -> None:
        """Call `then` on one of the pool's threads when the prompt is ready.

        Args:
            futures: the requests that wait for it; an error is set on them. If all are done, the
                prompt is not prepared.

        Raises:
            EngineStoppedError: the pool is closed.
        """
        job, key = _Job(prompt, futures, then), _sources(prompt)
        with self._lock:
            if self._is_closed:
                raise EngineStoppedError("the engine is being stopped")
            if key in self._groups:
                self._groups[key].append(job)
            else:
                self._begin_group(key, job)

    def close(self) -> None:
        """Stop. Media at hand are not waited for, since a download may take a minute."""
        with self._lock:
            self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
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
                if not all(future.done() for future in job.futures):
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


def _fail_all(job: _Job, error: Exception) -> None:
    for future in job.futures:
        fail(future, error)


def _sources(prompt: MediaPrompt) -> Hashable:
    """Return a key that prompts of the same media share, known before anything is read."""
    media = [part[part["type"]] for part in prompt.media]
    known = [each if isinstance(each, str | bytes | Path) else id(each) for each in media]
    return prompt.video, *known
