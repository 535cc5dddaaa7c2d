"""`EngineThread`: one life of an engine, from loading its model to freeing it.

MLX streams belong to the thread that made them, so nothing else ever touches the model. What
callers want done arrives as commands.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import logging
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import mlx.core as mx

from vllm_mlx import platform
from vllm_mlx.batching.loaded_model import LoadedModel
from vllm_mlx.batching.prompts.media_pool import MediaPool
from vllm_mlx.batching.request import fail
from vllm_mlx.batching.runners.make_runner import make_runner
from vllm_mlx.batching.runners.runner import Runner
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.errors import (
    EngineStoppedError,
    InvalidRequestError,
    KVCacheBudgetError,
    RequestAbortedError,
)
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.outputs import EngineStats, GenerationOutput
from vllm_mlx.scheduler_config import SchedulerConfig

logger = logging.getLogger(__name__)

_process: int | None = None  # that has had an engine


def refuse_fork(model: str) -> None:
    """Raise in a process forked from one that has loaded a model: MLX's threads don't survive.

    Raises:
        EngineStoppedError: this process was forked from one that has had an engine.
    """
    if _process not in (None, os.getpid()):
        raise EngineStoppedError(
            f"{model} can't run in a process forked from one that has loaded a model: start this "
            "process with multiprocessing's 'spawn' in place of 'fork', and load the model in it"
        )


class Parts(NamedTuple):
    """What an engine is made of while its model is loaded.

    Attributes:
        media: prepares prompts with images and videos; None if the model sees none.
    """

    loaded: LoadedModel
    runner: Runner
    scheduler: Scheduler
    media: MediaPool | None


class EngineThread(threading.Thread):
    """Loads a model and steps it until `stop()`. Used once, like any thread.

    It holds nothing of its owner, so that an owner that is dropped can end it.

    Attributes:
        ready: done when the model is loaded; a `ModelLoadError` says that it can't be, a
            `KVCacheBudgetError` that no row would fit, and an `EngineStoppedError` that the thread
            was stopped meanwhile.
    """

    def __init__(
        self,
        model: str,
        load: Callable[[str], LoadedModel],
        config: SchedulerConfig,
        policy: MediaPolicy,
    ) -> None:
        super().__init__(name=f"mlx-{model}", daemon=True)
        self._model = model
        self._load = load
        self._config = config
        self._policy = policy
        self.ready: Future[None] = Future()
        self.ready.set_running_or_notify_cancel()  # one of many waiters can't cancel it
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # Reentrant: garbage collection may cancel a future or stop us while its thread has it.
        self._inbox_lock = threading.RLock()
        self._is_loading = False
        self._parts: Parts | None = None
        self._is_open = True
        self._unfinished: dict[str, Future[GenerationOutput]] = {}

    # For callers, on any thread.

    def start(self) -> None:
        global _process
        _process = os.getpid()
        super().start()

    def stop(self, *, wait: bool = True) -> None:
        """End loading at once, or after the step at hand; what is unfinished gets an error."""
        with self._inbox_lock:
            self._inbox.put(None)
            if self._is_loading:  # raised before the next line of Python that it runs
                self._is_loading = False
                thread, error = ctypes.c_ulong(self.ident or 0), ctypes.py_object(SystemExit)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, error)
        if wait and threading.current_thread() is not self:
            self.join()

    def expect(self, request_id: str) -> Future[GenerationOutput]:
        """Return the future of a request, which has failed if another runs under its name.

        Raises:
            EngineStoppedError: the thread is ending.
        """
        future: Future[GenerationOutput] = Future()
        with self._inbox_lock:
            self._require_open()
            other = self._unfinished.get(request_id)
            if other and not other.done():
                fail(future, InvalidRequestError(f"{request_id=}: still running under it"))
            else:
                if other:  # whose callback is on its way
                    self._ended(request_id, other)
                self._unfinished[request_id] = future
        future.add_done_callback(partial(self._ended, request_id))
        return future

    def add(self, *sequences: Sequence) -> None:
        """Queue sequences; none of them starts before all are known.

        Raises:
            EngineStoppedError: the thread is ending.
        """

        def add_all() -> None:
            for sequence in sequences:
                if not sequence.future.done():  # or it was given up while its media were read
                    self.parts.scheduler.add(sequence)

        self.post(add_all)

    def post(self, command: Callable[[], None]) -> None:
        """Have a command run on this thread, after those that were posted before.

        Raises:
            EngineStoppedError: the thread is ending.
        """
        with self._inbox_lock:
            self._require_open()
            self._inbox.put(command)

    def abort(self, request_id: str) -> None:
        """End a request; do nothing if there is none of this name."""
        with self._inbox_lock:
            future = self._unfinished.get(request_id)
        if future:
            fail(future, RequestAbortedError(f"request {request_id!r} was aborted"))

    @property
    def has_failed(self) -> bool:
        """Whether the model was not loaded and will not be."""
        return self.ready.done() and self.ready.exception() is not None

    @property
    def parts(self) -> Parts:
        """The model in memory, and what runs it.

        Raises:
            EngineStoppedError: it is not loaded yet, or not any more.
        """
        if (parts := self._parts) is None:
            raise EngineStoppedError(f"the engine of {self._model} is stopped")
        return parts

    @property
    def stats(self) -> EngineStats:
        stats = self.parts.scheduler.stats
        with self._inbox_lock:
            unfinished = sum(not future.done() for future in self._unfinished.values())
        return replace(stats, waiting=max(0, unfinished - stats.running))

    def _ended(self, name: str, future: Future[GenerationOutput]) -> None:
        """Free the name of a future that is done, and the place of one that was given up."""
        with self._inbox_lock:
            if self._unfinished.get(name) is not future:
                return  # it was refused, or its name is in use again
            del self._unfinished[name]
            if future.cancelled() or isinstance(future.exception(), RequestAbortedError):
                self._inbox.put(partial(self._drop, name))

    def _require_open(self) -> None:
        if not self._is_open:
            raise EngineStoppedError(f"the engine of {self._model} is stopped")

    # On this thread.

    def run(self) -> None:
        try:
            self._parts = self._load_unless_ended()
        except BaseException as error:
            # A library may make another error of the SystemExit that `stop` raises in it.
            if isinstance(error, SystemExit) or not self._inbox.empty():
                stopped = f"the engine of {self._model} was stopped while it loaded"
                self.ready.set_exception(EngineStoppedError(stopped))
            else:
                self.ready.set_exception(error)
        else:
            self._serve()
        finally:
            self._parts = None
            gc.collect()  # a model is in cycles of references, of mlx's making
            mx.clear_cache()
            # Streams left to the thread's own end are torn down after `join()` returns, and a
            # process that exits meanwhile aborts.
            mx.clear_streams()

    def _load_unless_ended(self) -> Parts:
        with self._inbox_lock:
            if not self._inbox.empty():
                raise SystemExit
            self._is_loading = True
        try:
            platform.wire()
            loaded = self._load(self._model)
            runner = make_runner(loaded.model, vocab_size=loaded.vocab_size, config=self._config)
            if refusal := runner.refusal(1, 1):
                raise KVCacheBudgetError(f"{self._model} can't answer even one token: {refusal}")
            scheduler = Scheduler(runner, loaded.tokenizer.eos_token_ids)
            preparer = loaded.new_preparer and loaded.new_preparer(self._policy)
            media = MediaPool(preparer) if preparer else None
            return Parts(loaded, runner, scheduler, media)
        finally:
            with self._inbox_lock:
                self._is_loading = False

    def _serve(self) -> None:
        self.ready.set_result(None)
        try:
            while self._take_commands():
                self._step()
        finally:
            self._shut_down()
        self.parts.runner.close()

    def _take_commands(self) -> bool:
        """Run what callers sent; waits when there is nothing to step. False: stop."""
        while not self.parts.scheduler.has_unfinished or not self._inbox.empty():
            command = self._inbox.get()
            if command is None:
                return False
            command()
        return True

    def _step(self) -> None:
        sequences = self.parts.scheduler.step()
        with self.parts.runner.counters.timed("deliver"):
            for sequence in sequences:
                self._deliver(sequence)

    def _drop(self, name: str) -> None:
        self.parts.scheduler.remove(name)

    def _deliver(self, sequence: Sequence) -> None:
        try:
            sequence.deliver()
        except Exception as error:
            # A caller's callback failed; only its own request ends.
            logger.warning("delivering %s failed", sequence.request_id, exc_info=error)
            self.parts.scheduler.remove(sequence.request_id)
            sequence.fail(error)

    def _shut_down(self) -> None:
        with self._inbox_lock:
            self._is_open = False
            unfinished = list(self._unfinished.values())
        if media := self.parts.media:
            media.close()
        for future in unfinished:
            fail(future, EngineStoppedError(f"the engine of {self._model} was stopped"))


@atexit.register
def _stop_all() -> None:
    """Stop all threads: one inside MLX while the interpreter shuts down aborts the process."""
    for thread in threading.enumerate():
        if isinstance(thread, EngineThread):
            thread.stop()
