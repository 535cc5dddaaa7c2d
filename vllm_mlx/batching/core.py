"""`EngineCore`: what every model and engine is made of; prompts in, futures out."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future

from vllm_mlx import platform
from vllm_mlx.batching.engine_thread import EngineThread, refuse_fork
from vllm_mlx.batching.line import Call, Line
from vllm_mlx.batching.loaded_model import LoadedModel
from vllm_mlx.batching.prompts.preparation import Preparation, Submitted
from vllm_mlx.batching.request import Request, by_prompt, cancelled_on_error
from vllm_mlx.batching.request_list import raise_first
from vllm_mlx.batching.runners.runner import Runner
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.errors import EngineStoppedError
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.outputs import EngineStats, GenerationOutput
from vllm_mlx.scheduler_config import SchedulerConfig


class EngineCore:
    """One model and its batch. Every method is thread-safe.

    Args:
        model: the model's name, as it stands in every output.
        load: brings the model of that name into memory; called on the engine's own thread.
        config: bounds of the batch; the backend's defaults without one.
        media: what may be read and fetched for a prompt; nothing without one.
        in_line: a call waits for the media of those that came before it, which suits an engine that
            answers one after another; without it a prompt joins when its media are read.

    Attributes:
        max_num_seqs: most sequences side by side; what suits the model is known once it is loaded.
    """

    def __init__(
        self,
        model: str,
        load: Callable[[str], LoadedModel],
        config: SchedulerConfig | None = None,
        *,
        media: MediaPolicy | None = None,
        in_line: bool = False,
    ) -> None:
        self.model_name = model
        self._config = config or SchedulerConfig()
        self.max_num_seqs = self._config.max_num_seqs or platform.default_max_num_seqs()
        self._load = load
        self._media = media or MediaPolicy()
        self._in_line = in_line
        self._line: Line | None = None
        self._turns = itertools.count()
        # Held while a thread begins and while it ends: there are never two.
        self._life_lock = threading.RLock()
        self._thread: EngineThread | None = None
        self._end_when_dropped: weakref.finalize[..., EngineCore] | None = None

    def start(self) -> None:
        """Load the model and wait until it is ready; do nothing when it is.

        Raises:
            ModelLoadError: the model can't be loaded.
            EngineStoppedError: it is stopped meanwhile, or as of `begin`.
        """
        ready = self.begin()
        try:
            ready.result()
        except BaseException:
            if not ready.done():  # Ctrl-C
                self.stop(wait=False)
            raise
        if thread := self._thread:
            self.max_num_seqs = max(self.max_num_seqs, thread.parts.runner.bounds.max_num_seqs)

    def begin(self) -> Future[None]:
        """Begin to load the model, unless it is there or on its way.

        Returns:
            A future that is done when the model is ready, or has what `start` raises.

        Raises:
            EngineStoppedError: the process was forked from one that has loaded a model.
        """
        refuse_fork(self.model_name)
        with self._life_lock:
            if self._thread is None or self._thread.has_failed:
                thread = EngineThread(self.model_name, self._load, self._config, self._media)
                self._end_when_dropped = weakref.finalize(self, thread.stop, wait=False)
                self._thread = thread
                self._line = Line(thread) if self._in_line else None
                thread.start()
            return self._thread.ready

    def stop(self, *, wait: bool = True) -> None:
        """End the thread after the step at hand; waiting calls get `EngineStoppedError`."""
        with self._life_lock:
            thread, self._thread = self._thread, None
            if self._end_when_dropped:
                self._end_when_dropped.detach()
            if thread:
                thread.stop(wait=wait)

    def submit(
        self, *requests: Request, all_or_none: bool = False
    ) -> list[Future[GenerationOutput]]:
        """Queue requests at once, so that what any of them share is computed once.

        Calls start first come, first served; what has media joins when they are read, unless the
        engine is `in_line`. The prompts of one call may overtake each other, and those of the next
        such call unless they are all or none: the longest answers start first, which ends sooner
        in total.

        Args:
            all_or_none: begin no request if something is wrong with one, and raise that; what only
                reading its media tells is still its future's exception.

        Returns:
            A future of each whole output, in order. Cancelling it frees the sequence's place. What
            is wrong with a request is its future's exception: an `InvalidRequestError` (the prompt
            is empty, too long, or its chat template rejects it), a `MediaError`, or a
            `KVCacheBudgetError` (it could never fit into `kv_cache_bytes`).

        Raises:
            EngineStoppedError: the engine is not started, or it is being stopped.
            InvalidRequestError: something is wrong with a request, where it is all or none.
        """
        thread, now = self._running(), time.perf_counter()
        futures: list[Future[GenerationOutput]] = []
        ready: list[Sequence] = []
        with self._in_turn() as call, cancelled_on_error(futures):
            prompts, prepare = list(by_prompt(requests)), Preparation(thread, self.model_name)
            turn = next(self._turns) if all_or_none or len(prompts) == 1 else None
            for each in prompts:
                samples = [
                    Submitted(request, thread.expect(request.request_id), now, turn)
                    for request in each
                ]
                futures += [sample.future for sample in samples]
                ready += prepare(samples, thread.add, call.read_later if call else None)
            if all_or_none:
                raise_first(futures)
            if call:
                call.texts += ready
            else:
                thread.add(*ready)
        return futures

    def examine(self, request: Request) -> list[Sequence]:
        """Return the sequences that `submit` would run for a request, and run none of them.

        Its media are read, and given back.

        Raises:
            MLXBatchError: what the request's future would have.
            EngineStoppedError: the engine is not started, or it is being stopped.
        """
        thread = self._running()
        future: Future[GenerationOutput] = Future()
        made: queue.SimpleQueue[list[Sequence]] = queue.SimpleQueue()
        future.add_done_callback(lambda _: made.put([]))  # it has failed
        samples = [Submitted(request, future, time.perf_counter(), None)]
        prepare = Preparation(thread, self.model_name)
        ready = prepare(samples, lambda *sequences: made.put([*sequences]))
        found = ready or made.get()
        if not found:
            future.result()
        for sequence in found:
            sequence.future.cancel()
        return found

    def abort(self, request_id: str) -> None:
        """End a request; its future raises `RequestAbortedError`. Unknown ids are ignored."""
        with contextlib.suppress(EngineStoppedError):
            self._running().abort(request_id)

    def _in_turn(self) -> contextlib.AbstractContextManager[Call | None]:
        return self._line.call() if self._line else contextlib.nullcontext()

    @property
    def is_running(self) -> bool:
        thread = self._thread
        return thread is not None and thread.ready.done() and not thread.has_failed

    @property
    def loaded(self) -> LoadedModel:
        """The model in memory.

        Raises:
            EngineStoppedError: there is none.
        """
        return self._running().parts.loaded

    @property
    def runner(self) -> Runner:
        """What runs it; to be looked at only, since the engine's thread steps it.

        Raises:
            EngineStoppedError: there is none.
        """
        return self._running().parts.runner

    @property
    def stats(self) -> EngineStats:
        """Counts since the start, and what the engine holds at this moment."""
        with contextlib.suppress(EngineStoppedError):
            return self._running().stats
        return EngineStats()

    @property
    def state(self) -> str:
        """Whether the model is loaded, what runs it, and on how many sequences."""
        try:
            runner, stats = self._running().parts.runner, self.stats
        except EngineStoppedError:
            return "loading" if self._thread and not self._thread.ready.done() else "not loaded"
        return f"{type(runner).__name__}, {stats.running} running, {stats.waiting} waiting"

    def _running(self) -> EngineThread:
        refuse_fork(self.model_name)
        if (thread := self._thread) is None:
            raise EngineStoppedError(f"the engine of {self.model_name} is not started")
        return thread
