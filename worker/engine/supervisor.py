"""`SupervisedEngine`: an engine in a process of its own, which is started again when it dies.

MLX aborts the process when a GPU runs out of memory, and so may any codec on a broken file. The
worker's own process, which holds leases and finished rows, never imports MLX.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace
from functools import partial
from pathlib import Path

from jobs.model_identity import identify
from vllm_mlx.batching.request import Request
from vllm_mlx.errors import EngineStoppedError, MLXBatchError, WorkerKilled
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.outputs import EngineStats, GenerationOutput
from vllm_mlx.scheduler_config import SchedulerConfig
from worker.engine.backlog import Backlog, Pending, order_of, pending_rows
from worker.engine.child import EngineChild
from worker.engine.wire import EngineEvent, Order, Setup

logger = logging.getLogger("mlx_batch.supervisor")

ENGINE = "worker.engine.process:engine_core"
LOAD_ATTEMPTS = 3  # processes that may die one after another while they load the model
MOST_DEATHS = 16  # with no answer between: it is the machine then, and no row is to blame


class SupervisedEngine:
    """Answers rows as `vllm_mlx.batching.core.EngineCore` does. Every method is thread-safe.

    Rows that a dying process had begun are tried again alone; one that kills again ends in
    `WorkerKilled`.

    Args:
        model: a hub id, a folder, a `.gguf` file or an alias; outputs have the name of its
            `ModelIdentity`.
        adapter: a folder that mlx_lm.lora has written; part of the identity.
        config: bounds of the batch; the backend's defaults without one.
        media: what may be read and fetched for a prompt; nothing without one.
        verbose: log more.
        make: `module:function` that makes the engine, called in its process.

    Attributes:
        max_num_seqs: most rows side by side; the backend's choice is known once it is started.
    """

    def __init__(
        self,
        model: str,
        config: SchedulerConfig | None = None,
        *,
        adapter: Path | None = None,
        media: MediaPolicy | None = None,
        verbose: bool = False,
        make: str = ENGINE,
    ) -> None:
        config = config or SchedulerConfig()
        self.max_num_seqs = config.max_num_seqs or 1
        self._identify = partial(identify, model, adapter)
        self._setup = Setup(
            make=make,
            model=self._identify().name,
            source=model,
            adapter_path=None if adapter is None else str(adapter),
            config=config,
            media=media or MediaPolicy(),
            verbose=verbose,
        )
        self._revision: str | None = None
        self._keys = itertools.count()
        self._life_lock = threading.Lock()  # held while an engine starts and while it ends
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # guards all below
        self._ended: str | None = self._says("is not started")
        self._child: EngineChild | None = None
        self._is_ready = False
        self._backlog = Backlog()
        self._before = EngineStats()
        self._now = EngineStats()

    def start(self) -> None:
        """Start the process and wait until the model is loaded; does nothing when it is.

        Raises:
            ModelLoadError: the model can't be loaded.
            MLXBatchError: MLX is missing, or the process dies while it loads the model.
        """
        with self._life_lock:
            if self._thread:
                return
            self._before = self._now = EngineStats()
            self._ended = None
            ready: Future[None] = Future()
            self._thread = threading.Thread(
                target=self._supervise, args=(ready,), name="supervisor", daemon=True
            )
            self._thread.start()
            try:
                ready.result()
            except BaseException:
                self._stop()
                raise

    def stop(self) -> None:
        """End the process; rows that are not answered get `EngineStoppedError`."""
        with self._life_lock:
            self._stop()

    def submit(self, *requests: Request) -> list[Future[GenerationOutput]]:
        """Queue requests at once.

        Returns:
            Their futures, in order. What is wrong with a request is in its output, and cancelling
            it frees its place.

        Raises:
            EngineStoppedError: the engine is not started, or it has ended.
            ValueError: a request has callbacks: rows cross to the process and back, not tokens.
        """
        if any(request.on_chunk or request.on_begin for request in requests):
            raise ValueError("an engine in another process calls nothing back")
        rows = pending_rows(requests, self._keys, self._setup.model)
        with self._lock:
            if self._ended is not None:
                raise EngineStoppedError(self._ended)
            self._backlog.add(row for row in rows if not row.future.done())
            self._send_due()
        for row in rows:
            row.future.add_done_callback(partial(self._forget, row))
        return [row.future for row in rows]

    def cancel_waiting(self, futures: Iterable[Future[GenerationOutput]]) -> None:
        """Cancel those of these rows on which no work has begun."""
        with self._lock:
            waiting = self._backlog.waiting
        for future in waiting.intersection(futures):
            future.cancel()

    @property
    def stats(self) -> EngineStats:
        """Counts since the start, over all processes, and what the engine holds now."""
        with self._lock:
            stats = self._now.after(self._before)
            return replace(stats, waiting=stats.waiting + self._backlog.unsent)

    def _forget(self, row: Pending, future: Future[GenerationOutput]) -> None:
        """Free the place of a row whose future is done, if its caller has cancelled it."""
        if not future.cancelled():
            return
        with self._lock:
            if self._backlog.take(row.key) and row.sent and self._child:
                self._child.send(Order(cancelled=(row.key,)))
                self._send_due()

    def _send_due(self) -> None:
        if self._child and self._is_ready and (rows := self._backlog.due()):
            self._child.send(order_of(rows))

    # On the supervisor's thread.

    def _supervise(self, ready: Future[None]) -> None:
        try:
            self._keep_alive(ready)
        except Exception as error:
            if not isinstance(error, MLXBatchError):
                logger.exception("the supervisor failed")
            self._end(error, ready)

    def _keep_alive(self, ready: Future[None]) -> None:
        """Run one process after another until the engine is stopped.

        Raises:
            MLXBatchError: there is no use in another one.
        """
        loads = deaths = 0
        while child := self._new_child():
            answers = 0
            try:
                for event in child.events():
                    answers += len(event.answers)
                    self._take(event, ready)
            finally:
                death = child.bury()
            was_ready, killer = self._clear_up()
            if self._ended is not None:
                return
            if killer:
                error = WorkerKilled(
                    f"the engine's process {death} while it answered this row and no other; "
                    "before, another had died with this row among others"
                )
                _resolve(killer, GenerationOutput.from_error(error, self._setup.model))
            loads = 0 if was_ready else loads + 1
            deaths = 0 if answers else deaths + 1
            if loads == LOAD_ATTEMPTS:
                raise EngineStoppedError(self._says(f"can't be loaded: {death.describe(loads)}"))
            if deaths == MOST_DEATHS:
                raise EngineStoppedError(self._says(f"has ended: {death.describe(deaths)}"))
            logger.warning("the engine's process %s; it is started again", death)

    def _new_child(self) -> EngineChild | None:
        with self._lock:
            self._child = None if self._ended is not None else EngineChild(self._setup)
            return self._child

    def _take(self, event: EngineEvent, ready: Future[None]) -> None:
        if event.failed:
            raise event.failed.error
        if event.ready:
            self._check_model()
        with self._lock:
            if event.ready:
                self.max_num_seqs = event.ready
                self._is_ready = True
            if event.stats:
                self._now = event.stats
            self._backlog.begin(event.began)
            taken = [(self._backlog.take(key), output) for key, output in event.answers]
            self._send_due()
        if event.ready and not ready.done():
            ready.set_result(None)
        for row, output in taken:
            if row:
                _resolve(row, output)

    def _check_model(self) -> None:
        """Make sure that each process loads the same model.

        Raises:
            EngineStoppedError: its folder, or its revision in the hub, has changed.
        """
        found = self._identify()
        if found.name != self._setup.model or self._revision not in (None, found.revision):
            raise EngineStoppedError(self._says("has ended: its files have changed"))
        self._revision = found.revision

    def _clear_up(self) -> tuple[bool, Pending | None]:
        """Return whether a dead process had loaded its model, and the row that has killed two."""
        with self._lock:
            was_ready, self._is_ready = self._is_ready, False
            self._child = None
            self._before, self._now = self._now.after(self._before), EngineStats()
            return was_ready, self._backlog.fail() if was_ready else None

    # The end, on any thread.

    def _stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread:
            self._end(EngineStoppedError(self._says("was stopped")))
            thread.join()

    def _end(self, error: Exception, ready: Future[None] | None = None) -> None:
        """End the process, and every row with it."""
        with self._lock:
            if self._ended is None:
                is_described = isinstance(error, EngineStoppedError)
                self._ended = str(error) if is_described else self._says(f"has ended: {error}")
            child, self._child = self._child, None
            rows = self._backlog.take_all()
        if child:
            child.stop(at_once=not self._is_ready)
        for row in rows:
            with contextlib.suppress(InvalidStateError):
                row.future.set_exception(EngineStoppedError(self._ended))
        if ready and not ready.done():
            ready.set_exception(error)

    def _says(self, what: str) -> str:
        return f"the engine of {self._setup.model} {what}"


def _resolve(row: Pending, output: GenerationOutput) -> None:
    with contextlib.suppress(InvalidStateError):  # cancelled a moment ago
        row.future.set_result(output)
