"""`EngineThread`: one life of an engine, from loading its model to freeing it.

MLX streams belong to the thread that made them, so nothing else ever touches the model. What
callers want done arrives as commands.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

import mlx.core as mx

from vllm_mlx.batching.loaded_model import LoadedModel
from vllm_mlx.batching.make_runner import make_runner
from vllm_mlx.batching.media_pool import MediaPool
from vllm_mlx.batching.runner import Runner
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.errors import EngineStoppedError, InvalidRequestError, RequestAbortedError
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.outputs import EngineStats, GenerationOutput
from vllm_mlx.scheduler_config import SchedulerConfig

logger = logging.getLogger(__name__)


class EngineThread(threading.Thread):
    """Loads a model and steps it until `stop()`. Used once, like any thread.

    Attributes:
        media: prepares prompts with images and videos; None if the model sees none.
    """

    loaded: LoadedModel
    runner: Runner
    media: MediaPool | None = None

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
        self._ready: Future[None] = Future()
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._inbox_lock = threading.Lock()
        self._is_open = True
        self._unfinished: dict[str, Sequence] = {}

    # For callers, on any thread.

    def start_and_wait(self) -> None:
        """Start, and wait until the model is loaded.

        Raises:
            ModelLoadError: it can't be; the thread has ended.
        """
        self.start()
        try:
            self._ready.result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End after the step at hand; sequences that are not finished get `EngineStoppedError`."""
        self._inbox.put(None)
        if threading.current_thread() is not self:
            self.join()

    def add(self, *sequences: Sequence) -> None:
        """Queue sequences; none of them starts before all are known.

        Raises:
            EngineStoppedError: the thread is ending.
        """

        def add_all() -> None:
            for sequence in sequences:
                self._add(sequence)

        for sequence in sequences:
            sequence.future.add_done_callback(partial(self._ended, sequence))
        self._send(add_all)

    def abort(self, request_id: str) -> None:
        """End a sequence; nothing happens if there is none of this name.

        Raises:
            EngineStoppedError: the thread is ending.
        """
        if self.media:
            self.media.abort(request_id)
        self._send(lambda: self._abort(request_id))

    @property
    def stats(self) -> EngineStats:
        stats = self._scheduler.stats
        return replace(stats, waiting=stats.waiting + self.media.waiting) if self.media else stats

    def _send(self, command: Callable[[], None]) -> None:
        with self._inbox_lock:
            if not self._is_open:
                raise EngineStoppedError(f"the engine of {self._model} is stopped")
            self._inbox.put(command)

    # On this thread.

    def run(self) -> None:
        try:
            self.loaded = self._load(self._model)
            self.runner = make_runner(
                self.loaded.model,
                self.loaded.tokenizer.eos_token_ids,
                vocab_size=self.loaded.vocab_size,
                config=self._config,
            )
            if self.loaded.new_preparer:
                self.media = MediaPool(self.loaded.new_preparer(self._policy))
        except BaseException as error:
            self._ready.set_exception(error)
        else:
            self._serve()
        finally:
            # Streams left to the thread's own end are torn down after `join()` returns, and a
            # process that exits meanwhile aborts.
            mx.clear_streams()

    def _serve(self) -> None:
        self._scheduler = Scheduler(self.runner, self.loaded.tokenizer.eos_token_ids)
        self._ready.set_result(None)
        try:
            while self._take_commands():
                self._step()
        finally:
            self._shut_down()
        self.runner.close()

    def _take_commands(self) -> bool:
        """Run what callers sent; waits when there is nothing to step. False: stop."""
        while not self._scheduler.has_unfinished or not self._inbox.empty():
            command = self._inbox.get()
            if command is None:
                return False
            command()
        return True

    def _step(self) -> None:
        sequences = self._scheduler.step()
        with self.runner.counters.timed("deliver"):
            for sequence in sequences:
                self._deliver(sequence)

    def _deliver(self, sequence: Sequence) -> None:
        try:
            sequence.deliver()
        except Exception as error:
            # A caller's callback failed; only its own request ends.
            logger.warning("delivering %s failed", sequence.request_id, exc_info=error)
            self._scheduler.remove(sequence.request_id)
            sequence.fail(error)

    def _add(self, sequence: Sequence) -> None:
        name = sequence.request_id
        if sequence.future.done():
            return  # cancelled or aborted while its media were read
        if name in self._unfinished:
            sequence.fail(InvalidRequestError(f"request_id={name!r}: still running under it"))
            return
        self._unfinished[name] = sequence
        self._scheduler.add(sequence)

    def _ended(self, sequence: Sequence, future: Future[GenerationOutput]) -> None:
        """A future is done: settled on this thread, or cancelled on any."""
        if not future.cancelled():
            self._release_name(sequence)
            return
        with contextlib.suppress(EngineStoppedError):
            self._send(lambda: self._drop(sequence))

    def _drop(self, sequence: Sequence) -> None:
        if self._release_name(sequence):
            self._scheduler.remove(sequence.request_id)

    def _release_name(self, sequence: Sequence) -> bool:
        """Whether the sequence had its name; one that was refused has not."""
        name = sequence.request_id
        if self._unfinished.get(name) is not sequence:
            return False
        del self._unfinished[name]
        return True

    def _abort(self, request_id: str) -> None:
        if sequence := self._scheduler.remove(request_id):
            sequence.fail(RequestAbortedError(f"request {request_id!r} was aborted"))

    def _shut_down(self) -> None:
        if self.media:
            self.media.close()
        with self._inbox_lock:
            self._is_open = False
        while not self._inbox.empty():
            if command := self._inbox.get():
                command()
        for sequence in self._scheduler.unfinished():
            self._scheduler.remove(sequence.request_id)
            sequence.fail(EngineStoppedError(f"the engine of {self._model} was stopped"))
