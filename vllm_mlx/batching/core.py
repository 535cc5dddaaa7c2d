"""`EngineCore`: what every model and engine is made of; prompts in, futures out."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any

from vllm_mlx import platform
from vllm_mlx.batching.engine_thread import EngineThread
from vllm_mlx.batching.loaded_model import LoadedModel
from vllm_mlx.batching.prompt_media import PromptMedia
from vllm_mlx.batching.prompts import MediaPrompt, Prepared, Prompt
from vllm_mlx.batching.sequence import ChunkCallback, Sequence
from vllm_mlx.batching.text import TextStream
from vllm_mlx.errors import (
    ContextLengthError,
    EngineStoppedError,
    KVCacheBudgetError,
    MediaError,
)
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.outputs import EngineStats, GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig


class EngineCore:
    """One model and its batch. Every method is thread-safe.

    Args:
        model: the model's name, as it stands in every output.
        load: brings the model of that name into memory; called on the engine's own thread.
        config: bounds of the batch; the backend's defaults without one.
        media: what may be read and fetched for a prompt; nothing without one.

    Attributes:
        max_num_seqs: most sequences side by side.
    """

    def __init__(
        self,
        model: str,
        load: Callable[[str], LoadedModel],
        config: SchedulerConfig | None = None,
        *,
        media: MediaPolicy | None = None,
    ) -> None:
        self.model_name = model
        self._config = config or SchedulerConfig()
        self.max_num_seqs = self._config.max_num_seqs or platform.default_max_num_seqs()
        self._load = load
        self._media = media or MediaPolicy()
        # Held while a thread starts and while it ends: there are never two.
        self._life_lock = threading.RLock()
        self._thread: EngineThread | None = None
        _cores.add(self)

    def start(self) -> None:
        """Load the model and wait until it is ready; does nothing when it is.

        Raises:
            ModelLoadError: the model can't be loaded.
        """
        with self._life_lock:
            if self._thread is None:
                thread = EngineThread(self.model_name, self._load, self._config, self._media)
                thread.start_and_wait()
                self._thread = thread

    def stop(self) -> None:
        """End the thread and free the model; waiting calls get `EngineStoppedError`."""
        with self._life_lock:
            thread, self._thread = self._thread, None
            if thread:
                thread.stop()

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        request_id: str | None = None,
        on_chunk: ChunkCallback | None = None,
    ) -> Future[GenerationOutput]:
        """Queue one prompt.

        Args:
            on_chunk: called on the engine's thread for every piece of text and for the end.

        Returns:
            A future of the whole output. Cancelling it frees the sequence's place.

        Raises:
            InvalidRequestError: the prompt is empty, too long, or its chat template rejects it; of
                a prompt with media that, or a `MediaError`, is the future's exception.
            KVCacheBudgetError: it could never fit into `kv_cache_bytes`.
            EngineStoppedError: the engine is not started, or it is being stopped.
        """
        (future,) = self._submit(prompt, [params], request_id=request_id, on_chunk=on_chunk)
        return future

    def submit_samples(
        self, prompt: Prompt, params: list[SamplingParams]
    ) -> list[Future[GenerationOutput]]:
        """Queue one prompt several times, so that its prefill is computed once.

        Raises: as `submit` does.
        """
        return self._submit(prompt, params)

    def submit_all(
        self,
        asked: Iterable[tuple[Prompt, list[SamplingParams]]],
        *,
        on_begin: Callable[[int], None] | None = None,
    ) -> list[Future[GenerationOutput]]:
        """Queue many prompts at once, so that what any of them share is computed once.

        Args:
            asked: prompts, each with the parameters of its samples.
            on_begin: called with a sample's place among all when it is about to enter the batch,
                or to have its media read: what happens to the process from then on may be its
                fault.

        Returns:
            The futures of all samples in order. What `submit` would raise for a prompt is the
            exception of its own futures.

        Raises:
            EngineStoppedError: the engine is not started, or it is being stopped.
        """
        thread = self._running()
        sequences: list[Sequence] = []
        futures: list[Future[GenerationOutput]] = []
        for prompt, params in asked:
            places = range(len(futures), len(futures) + len(params))
            tell = [partial(on_begin, place) for place in places] if on_begin else []
            try:
                begun, ready = self._begin(thread, prompt, params, on_begin=tell)
            except Exception as error:  # one prompt must never cost its neighbours
                futures += [_failed(error) for _ in params]
            else:
                futures += begun
                sequences += ready
        thread.add(*sequences)
        return futures

    def abort(self, request_id: str) -> None:
        """End a request; its future raises `RequestAbortedError`. Unknown ids are ignored."""
        with contextlib.suppress(EngineStoppedError):
            self._running().abort(request_id)

    @property
    def is_running(self) -> bool:
        return self._thread is not None

    @property
    def loaded(self) -> LoadedModel:
        """The model in memory.

        Raises:
            EngineStoppedError: there is none.
        """
        return self._running().loaded

    @property
    def stats(self) -> EngineStats:
        """Counts since the start, and what the engine holds at this moment."""
        thread = self._thread
        return thread.stats if thread else EngineStats()

    def _submit(
        self, prompt: Prompt, params: list[SamplingParams], **how: Any
    ) -> list[Future[GenerationOutput]]:
        thread = self._running()
        futures, sequences = self._begin(thread, prompt, params, **how)
        thread.add(*sequences)
        return futures

    def _begin(
        self,
        thread: EngineThread,
        prompt: Prompt,
        params: list[SamplingParams],
        *,
        request_id: str | None = None,
        on_chunk: ChunkCallback | None = None,
        on_begin: Iterable[Callable[[], None]] = (),
    ) -> tuple[list[Future[GenerationOutput]], list[Sequence]]:
        """The futures of a prompt's samples, and those sequences that can be queued at once: with
        media, a prompt is read first and queued then."""
        submitted = time.perf_counter()
        names = [request_id or uuid.uuid4().hex, *(uuid.uuid4().hex for _ in params[1:])]
        futures: dict[str, Future[GenerationOutput]] = {name: Future() for name in names}

        def sequences_of(prepared: Prepared) -> list[Sequence]:
            samples = prepared.for_samples(len(params))
            for sample, future in zip(samples, futures.values(), strict=True):
                if sample.media:
                    future.add_done_callback(partial(_release, sample.media))
            tell: list[Callable[[], None] | None] = [*on_begin] or [None] * len(params)
            each = zip(samples, futures.items(), params, tell, strict=True)
            return [self._sequence(thread, *one, on_chunk, submitted) for one in each]

        if not isinstance(prompt, MediaPrompt):
            sequences = sequences_of(Prepared(thread.loaded.encode(prompt)))
            return list(futures.values()), sequences
        if thread.media is None:
            raise MediaError(f"{self.model_name} sees no images and videos: use a vision model")

        def queue(prepared: Prepared) -> None:
            thread.add(*sequences_of(prepared))

        for begin in on_begin:
            begin()
        thread.media.submit(prompt, futures, queue)
        return list(futures.values()), []

    def _sequence(
        self,
        thread: EngineThread,
        prepared: Prepared,
        named: tuple[str, Future[GenerationOutput]],
        params: SamplingParams,
        on_begin: Callable[[], None] | None,
        on_chunk: ChunkCallback | None,
        submitted: float,
    ) -> Sequence:
        loaded, (tokens, media), (name, future) = thread.loaded, prepared, named
        max_tokens = _room(loaded, len(tokens), params.max_tokens)
        if refusal := thread.runner.refusal(len(tokens), max_tokens):
            raise KVCacheBudgetError(refusal)
        return Sequence(
            name,
            tokens,
            params,
            max_tokens=max_tokens,
            model=self.model_name,
            new_text=lambda: TextStream(loaded.new_detokenizer(), params.stop),
            token_text=loaded.token_text,
            media=media,
            future=future,
            on_chunk=on_chunk,
            on_begin=on_begin,
            submitted=submitted,
        )

    def _running(self) -> EngineThread:
        if (thread := self._thread) is None:
            raise EngineStoppedError(f"the engine of {self.model_name} is not started")
        return thread


def _failed(error: Exception) -> Future[GenerationOutput]:
    future: Future[GenerationOutput] = Future()
    future.set_exception(error)
    return future


def _release(media: PromptMedia, _: Future[GenerationOutput]) -> None:
    media.release()


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
