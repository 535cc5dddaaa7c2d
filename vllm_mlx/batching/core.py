"""`EngineCore`: the thread that owns a model, loads it and steps it.

MLX streams belong to the thread that made them, so nothing else ever touches the model. Callers
on any thread submit prompts and get futures; a command box carries both over.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import queue
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from vllm_mlx.batching.runner import UpstreamRunner
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.batching.sequence import ChunkCallback, Sequence
from vllm_mlx.batching.text import TextStream
from vllm_mlx.errors import (
    ContextLengthError,
    EngineStoppedError,
    InvalidRequestError,
    RequestAbortedError,
)
from vllm_mlx.outputs import EngineStats, GenerationOutput
from vllm_mlx.sampling_params import SamplingParams

if TYPE_CHECKING:  # models build on the core, so the core knows their shape only
    from vllm_mlx.models.loading import LoadedModel

logger = logging.getLogger(__name__)

Prompt = str | SequenceOf[Mapping[str, Any]]
"""A plain prompt, or the messages of a chat."""


class EngineCore:
    """One model on one thread, with up to `max_num_seqs` sequences in its batch.

    Args:
        model: the model's name, as it stands in every output.
        load: brings the model of that name into memory; called on the engine's thread.
    """

    def __init__(
        self,
        model: str,
        load: Callable[[str], LoadedModel],
        *,
        max_num_seqs: int,
    ) -> None:
        if max_num_seqs < 1:
            raise InvalidRequestError(f"max_num_seqs={max_num_seqs}: should be at least 1")
        self.model_name = model
        self.max_num_seqs = max_num_seqs
        self._counts = EngineStats()
        self._load = load
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._unfinished: dict[str, Sequence] = {}  # written on the engine thread only
        _cores.add(self)

    @property
    def is_running(self) -> bool:
        return self._thread is not None

    @property
    def stats(self) -> EngineStats:
        """Counts since the engine was made, and what it holds at this moment."""
        if self._thread is None:
            return self._counts
        running, waiting = len(self._scheduler.running), len(self._scheduler.waiting)
        return replace(self._counts, running=running, waiting=waiting)

    def start(self) -> None:
        """Load the model and wait until it is ready; does nothing when it is.

        Raises:
            ModelLoadError: the model can't be loaded.
        """
        with self._lock:
            if self._thread is not None:
                return
            self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
            ready: Future[LoadedModel] = Future()
            thread = threading.Thread(
                target=self._main, args=(ready,), name=f"mlx-{self.model_name}", daemon=True
            )
            thread.start()
            self._loaded = ready.result()
            self._thread = thread

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        request_id: str | None = None,
        on_chunk: ChunkCallback | None = None,
    ) -> Future[GenerationOutput]:
        """Queue one prompt; starts the engine if need be.

        Args:
            on_chunk: called on the engine's thread for every piece of text and for the end.

        Returns:
            A future of the whole output. Cancelling it frees the sequence's place.

        Raises:
            InvalidRequestError: the prompt is empty, too long, or its chat template rejects it.
            EngineStoppedError: the engine is being stopped.
        """
        self.start()
        loaded = self._loaded
        prompt_tokens = loaded.encode(prompt)
        sequence = Sequence(
            request_id or uuid.uuid4().hex,
            prompt_tokens,
            params,
            max_tokens=_room(loaded, len(prompt_tokens), params.max_tokens),
            model=self.model_name,
            new_text=lambda: TextStream(loaded.tokenizer.detokenizer, params.stop),
            on_chunk=on_chunk,
        )
        sequence.future.add_done_callback(
            lambda future: self.abort(sequence.request_id) if future.cancelled() else None
        )
        self._send(lambda: self._add(sequence))
        return sequence.future

    def abort(self, request_id: str) -> None:
        """End a request; its future raises `RequestAbortedError`. Unknown ids are ignored."""
        with contextlib.suppress(EngineStoppedError):
            self._send(lambda: self._abort(request_id))

    def stop(self) -> None:
        """End the thread and free the model; waiting calls get `EngineStoppedError`."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._inbox.put(None)
        if thread is not threading.current_thread():
            thread.join()

    # Everything below runs on the engine's thread.

    def _main(self, ready: Future[LoadedModel]) -> None:
        try:
            loaded = self._load(self.model_name)
        except BaseException as error:
            ready.set_exception(error)
        else:
            self._serve(loaded, ready)
        finally:
            # Streams left to the thread's own end are torn down after `join()` returns, and a
            # process that exits meanwhile aborts.
            mx.clear_streams()

    def _serve(self, loaded: LoadedModel, ready: Future[LoadedModel]) -> None:
        eos_token_ids = loaded.tokenizer.eos_token_ids
        runner = UpstreamRunner(
            loaded.model,
            eos_token_ids,
            vocab_size=loaded.vocab_size,
            max_num_seqs=self.max_num_seqs,
        )
        self._scheduler = Scheduler(runner, eos_token_ids, self.max_num_seqs)
        ready.set_result(loaded)
        while self._take_commands():
            self._step()
        self._shut_down()

    def _take_commands(self) -> bool:
        """Run what callers sent; waits when there is nothing to step. False: stop."""
        while not self._scheduler.has_unfinished or not self._inbox.empty():
            command = self._inbox.get()
            if command is None:
                return False
            command()
        return True

    def _step(self) -> None:
        started = time.perf_counter()
        sequences = self._scheduler.step()
        for sequence in sequences:
            self._deliver(sequence)
        counts = self._counts
        self._counts = replace(
            counts,
            completion_tokens=counts.completion_tokens + len(sequences),
            steps=counts.steps + 1,
            step_seconds=counts.step_seconds + time.perf_counter() - started,
        )

    def _deliver(self, sequence: Sequence) -> None:
        try:
            sequence.deliver()
        except Exception as error:
            # A caller's callback failed; only its own request ends.
            logger.warning("delivering %s failed", sequence.request_id, exc_info=error)
            self._scheduler.remove(sequence.request_id)
            sequence.fail(error)

    def _add(self, sequence: Sequence) -> None:
        if sequence.request_id in self._unfinished:
            name = sequence.request_id
            sequence.fail(InvalidRequestError(f"request_id={name!r}: still running under it"))
            return
        self._unfinished[sequence.request_id] = sequence
        sequence.future.add_done_callback(lambda _: self._unfinished.pop(sequence.request_id, None))
        self._scheduler.add(sequence)
        prompt_tokens = self._counts.prompt_tokens + len(sequence.prompt_tokens)
        self._counts = replace(self._counts, prompt_tokens=prompt_tokens)

    def _abort(self, request_id: str) -> None:
        if sequence := self._scheduler.remove(request_id):
            sequence.fail(RequestAbortedError(f"request {request_id!r} was aborted"))

    def _shut_down(self) -> None:
        while not self._inbox.empty():
            if command := self._inbox.get():
                command()
        for sequence in self._scheduler.unfinished():
            self._scheduler.remove(sequence.request_id)
            sequence.fail(EngineStoppedError("the engine was stopped"))
        del self._scheduler, self._loaded  # the weights go with them
        mx.clear_cache()

    def _send(self, command: Callable[[], None]) -> None:
        with self._lock:
            if self._thread is None:
                raise EngineStoppedError("the engine is stopped")
            self._inbox.put(command)


def _room(loaded: LoadedModel, prompt_tokens: int, max_tokens: int) -> int:
    if loaded.context_length is None:
        return max_tokens
    room = loaded.context_length - prompt_tokens
    if room < 1:
        raise ContextLengthError(
            f"the prompt has {prompt_tokens} tokens; the context of {loaded.name} holds "
            f"{loaded.context_length}, one of them for the answer"
        )
    return min(max_tokens, room)


# A daemon thread inside MLX while the interpreter goes down crashes the process.
_cores: weakref.WeakSet[EngineCore] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for core in list(_cores):
        core.stop()
