"""The process that an engine runs in, as the child of a worker: `python -m worker.engine.process`.

Orders come in on stdin, events go out on what was stdout (see `worker.engine.wire`); all that is
printed goes to stderr. It ends with its worker, at the end of stdin.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import queue
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import IO

from vllm_mlx.batching.request import Request
from vllm_mlx.errors import EngineStoppedError, MLXBatchError
from vllm_mlx.outputs import EngineStats, GenerationOutput
from worker.engine.text_engine import TextEngine
from worker.engine.wire import STUCK_CODE, EngineEvent, Failure, Order, Setup, decode_prompt
from worker.logs import log_to_stderr

logger = logging.getLogger("mlx_batch.engine")

STATS_EVERY = 0.2  # seconds between two events with counts, unless answers bring them sooner
# Seconds in which an engine with rows in its batch may count nothing. On a slow CPU a step over
# long prompts takes minutes; a GPU that hangs would hold its rows for ever.
STUCK = 1800.0


@contextlib.contextmanager
def _install_named() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MLXBatchError(
            f"a worker needs MLX ({error}): install mlx-batch's wheel with [metal], [cpu] or "
            "[cuda13]: see docs/install.md"
        ) from error


def require_mlx() -> None:
    """Look for what an engine needs, without importing it.

    Raises:
        MLXBatchError: MLX is not installed.
    """
    with _install_named():
        for name in ("mlx.core", "mlx_lm", "mlx_vlm"):
            if importlib.util.find_spec(name) is None:
                raise ModuleNotFoundError(f"No module named {name!r}")


def engine_core(setup: Setup) -> TextEngine:
    """Return the engine.

    Raises:
        MLXBatchError: MLX is not installed.
    """
    with _install_named():
        from vllm_mlx.batching.core import EngineCore
        from vllm_mlx.models.loading import load_model
    load = partial(load_model, setup.source, adapter_path=setup.adapter_path)
    return EngineCore(setup.model, lambda _: load(), setup.config, media=setup.media)


class EngineHost:
    """Runs an engine by the orders that come in, and tells what happens."""

    def __init__(self, setup: Setup, events: IO[bytes]) -> None:
        self.model = setup.model
        self.inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._setup = setup
        self._events = events
        self._events_lock = threading.Lock()
        self._engine: TextEngine
        self._open: dict[int, Future[GenerationOutput]] = {}
        self._answers: list[tuple[int, GenerationOutput]] = []
        self._sent_stats = EngineStats()
        self._looked_at = time.monotonic()
        self._still = 0.0  # seconds in which nothing moved, less those of a suspended process
        self._is_over = False

    def run(self) -> None:
        """Load the model and work until an order stops it.

        Raises:
            EngineStoppedError: the engine ended by itself.
        """
        try:
            module, _, function = self._setup.make.partition(":")
            self._engine = getattr(importlib.import_module(module), function)(self._setup)
            self._engine.start()
        except Exception as error:
            if not isinstance(error, MLXBatchError):
                logger.exception("the engine of %s can't be started", self.model)
            self._send(EngineEvent(failed=Failure(type(error).__name__, str(error))))
            return
        self._send(EngineEvent(ready=self._engine.max_num_seqs, stats=self._engine.stats))
        while not self._is_over:
            with contextlib.suppress(queue.Empty):
                self.inbox.get(timeout=STATS_EVERY)()
                while not self._is_over:
                    self.inbox.get_nowait()()
            self._send_progress()
        self._engine.stop()

    def handle(self, order: Order) -> None:
        """Start what is asked, drop what is cancelled."""
        self._is_over |= order.stop
        for key in order.cancelled:
            if future := self._open.pop(key, None):
                future.cancel()
        if not order.asked:
            return
        # Sent before the row's first step, which may kill this process.
        requests = {
            key: Request(prompt, params, on_begin=partial(self._send, EngineEvent(began=(key,))))
            for text, samples in order.asked
            for prompt in [decode_prompt(text)]
            for key, params in samples.items()
        }
        futures = self._engine.submit(*requests.values())
        asked = dict(zip(requests, futures, strict=True))
        self._open |= asked
        for key, future in asked.items():
            future.add_done_callback(partial(self._put_end, key))

    def _put_end(self, key: int, future: Future[GenerationOutput]) -> None:
        self.inbox.put(partial(self._end, key, future))  # called on any thread

    def _end(self, key: int, future: Future[GenerationOutput]) -> None:
        if self._open.pop(key, None) is None:  # cancelled
            return
        error = future.exception()
        if isinstance(error, EngineStoppedError):
            raise error
        output = GenerationOutput.from_error(error, self.model) if error else future.result()
        self._answers.append((key, output))

    def _send_progress(self) -> None:
        stats = self._engine.stats
        if self._answers or stats != self._sent_stats:
            answers, self._answers = tuple(self._answers), []
            self._send(EngineEvent(answers=answers, stats=stats))
            self._sent_stats = stats
            self._still = 0.0
        elif stats.running:
            self._end_if_stuck(stats.running)
        self._looked_at = time.monotonic()

    def _end_if_stuck(self, rows: int) -> None:
        self._still += min(time.monotonic() - self._looked_at, 2 * STATS_EVERY)
        if self._still > STUCK:
            logger.error("%d rows did not move for %.0f s", rows, STUCK)
            os._exit(STUCK_CODE)  # no thread can be waited for

    def _send(self, event: EngineEvent) -> None:
        line = event.encode() + b"\n"
        try:
            with self._events_lock:  # the engine's thread sends, too
                self._events.write(line)
                self._events.flush()
        except OSError:
            os._exit(1)  # the worker is gone


def main() -> None:
    orders, events = _take_over_pipes()
    # Ctrl-C in a terminal, its end and a service's stop reach us, too; the worker ends us.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    _offer_to_oom_killer()
    if not (line := orders.readline()):  # the worker was killed a moment ago
        return
    setup = Setup.decode(line)
    log_to_stderr(setup.verbose)
    host = EngineHost(setup, events)
    tempfile.tempdir = setup.scratch
    threading.Thread(target=_read, args=(orders, host), name="orders", daemon=True).start()
    try:
        host.run()
    except EngineStoppedError:
        logger.exception("the engine's thread has ended")
        os._exit(1)  # threads that fetch media are not waited for


def _read(orders: IO[bytes], host: EngineHost) -> None:
    """Pass orders on; end the process at once, in the middle of a step, if the worker is gone."""
    for line in orders:
        host.inbox.put(partial(host.handle, Order.decode(line)))
    if tempfile.tempdir:
        shutil.rmtree(tempfile.tempdir, ignore_errors=True)
    os._exit(0)


def _take_over_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Return the pipes to the worker, out of reach for libraries that print or read."""
    orders, events = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    return orders, events


def _offer_to_oom_killer() -> None:
    """Make Linux kill this process, which is restarted, before the worker when memory is out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


if __name__ == "__main__":
    main()
