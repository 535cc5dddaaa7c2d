"""`Line`: calls of an engine that answers one after another, in the order of asking."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial

from vllm_mlx.batching.engine_thread import EngineThread
from vllm_mlx.batching.prompts.preparation import Futures, Read
from vllm_mlx.batching.request import fail
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.errors import EngineStoppedError
from vllm_mlx.outputs import GenerationOutput


class Call:
    """What is asked at once. It is in line before its prompts are prepared.

    Attributes:
        texts: sequences that need no media.
        readings: what begins to read the media of a prompt, with the futures of its answers.
        is_prepared: whether the two are complete.
    """

    def __init__(self) -> None:
        self.texts: list[Sequence] = []
        self.readings: list[tuple[Futures, Read]] = []
        self.is_prepared = False

    def read_later(self, futures: Futures, read: Read) -> None:
        """Have `read` called when it is the call's turn."""
        self.readings.append((futures, read))


class Line:
    """Holds a call back until the media of those before it are read. Used on the engine's thread.

    Media are read for one call at a time, while the calls before it are answered. So only earlier
    calls hold memory that a reading may have to wait for.
    """

    def __init__(self, thread: EngineThread) -> None:
        self._thread = thread
        self._calls: deque[Call] = deque()
        self._unread: set[object] = set()  # one thing for each prompt of the call at hand

    # For callers, on any thread.

    @contextmanager
    def call(self) -> Iterator[Call]:
        """Yield a call that is last in line, to be prepared in the block.

        Raises:
            EngineStoppedError: the thread is ending.
        """
        call = Call()
        self._thread.post(partial(self._calls.append, call))
        try:
            yield call
        finally:
            call.is_prepared = True
            self._post(self._advance)

    # On the engine's thread.

    def _has_read(self, prompt: object) -> None:
        self._unread.discard(prompt)
        self._advance()

    def _advance(self) -> None:
        while not self._unread and self._calls and self._calls[0].is_prepared:
            call = self._calls.popleft()
            self._thread.add(*call.texts)
            for futures, read in call.readings:
                self._read(futures, read)

    def _read(self, futures: Futures, read: Read) -> None:
        prompt = object()
        self._unread.add(prompt)
        over = partial(self._has_read, prompt)

        def add(*sequences: Sequence) -> None:
            self._thread.add(*sequences)
            self._post(over)

        def ended(_: Future[GenerationOutput]) -> None:
            if all(future.done() for future in futures):  # given up, or failed
                self._post(over)

        try:
            read(add)
        except Exception as error:  # one prompt must never cost its neighbours
            for future in futures:
                fail(future, error)
        for future in futures:
            future.add_done_callback(ended)

    def _post(self, command: Callable[[], None]) -> None:
        with suppress(EngineStoppedError):  # which its futures have, too
            self._thread.post(command)
