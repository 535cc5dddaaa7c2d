"""`MLXLanguageModel`: a text model for plain, synchronous use."""

from __future__ import annotations

import queue
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Self, Unpack

from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.prompts import Messages, Prompt, chat_prompt, plain_prompt
from vllm_mlx.batching.request import ChunkCallback, Request
from vllm_mlx.media.policy import UNRESTRICTED
from vllm_mlx.models.loading import load_model
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingOptions, SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig


class MLXLanguageModel:
    """A language model by name: a hub id, a local folder, a `.gguf` file, or an alias.

    Every call is a batch of one on the engine's own core; calls from several threads wait their
    turn. Using a model before `load()` loads it.

    Example:
        >>> model = MLXLanguageModel("smollm2-135m")
        >>> model.generate("The capital of France is", max_tokens=8).text
    """

    _media = UNRESTRICTED

    def __init__(self, model_name: str, *, trust_remote_code: bool = False) -> None:
        self.model_name = model_name
        load = partial(load_model, trust_remote_code=trust_remote_code)
        self._core = EngineCore(
            model_name, load, SchedulerConfig(max_num_seqs=1), media=self._media
        )
        weakref.finalize(self, self._core.stop)

    def load(self) -> None:
        """Bring the model into memory; does nothing when it is there.

        Raises:
            ModelLoadError: it is missing, unreadable or of an unknown kind.
        """
        self._core.start()

    def unload(self) -> None:
        """Free the model's memory."""
        self._core.stop()

    def generate(self, prompt: str, **options: Unpack[SamplingOptions]) -> GenerationOutput:
        """Continue a plain prompt. Options and defaults: `SamplingParams`.

        Raises:
            InvalidRequestError: a value out of range, an unknown keyword, an empty prompt, or one
                beyond the model's context.
            ModelLoadError: the model was not loaded yet and can't be.
        """
        return self._submit(plain_prompt(prompt), SamplingParams.of(**options)).result()

    def chat(self, messages: Messages, **options: Unpack[SamplingOptions]) -> GenerationOutput:
        """Answer a conversation (`{"role", "content"}` messages) with the model's own template.

        Raises:
            ChatTemplateError: the model has no chat template, or it rejects the messages.
            InvalidRequestError: as for `generate`.
        """
        return self._submit(chat_prompt(messages), SamplingParams.of(**options)).result()

    def generate_samples(
        self, prompt: str, n: int, **options: Unpack[SamplingOptions]
    ) -> list[GenerationOutput]:
        """`n` answers to one prompt, whose prefill is computed once.

        With a seed the first is what `generate` gives with it, and all are repeatable.

        Raises:
            InvalidRequestError: as for `generate`, or `n > 1` at temperature 0.
        """
        return self._samples(plain_prompt(prompt), SamplingParams.of(**options).for_samples(n))

    def stream_generate(
        self, prompt: str, **options: Unpack[SamplingOptions]
    ) -> Iterator[GenerationOutput]:
        """`generate`, piece by piece; the last chunk carries `finish_reason`.

        Starts with the first `next()`; leaving the loop early ends the generation.
        """
        return self._stream(plain_prompt(prompt), SamplingParams.of(**options))

    def _submit(
        self, prompt: Prompt, params: SamplingParams, on_chunk: ChunkCallback | None = None
    ) -> Future[GenerationOutput]:
        self._core.start()
        (future,) = self._core.submit(Request(prompt, params, on_chunk=on_chunk))
        return future

    def _samples(self, prompt: Prompt, params: list[SamplingParams]) -> list[GenerationOutput]:
        self._core.start()
        futures = self._core.submit(*(Request(prompt, each) for each in params))
        return [future.result() for future in futures]

    def _stream(self, prompt: Prompt, params: SamplingParams) -> Iterator[GenerationOutput]:
        chunks: queue.SimpleQueue[GenerationOutput | Future[GenerationOutput]] = queue.SimpleQueue()
        future = self._submit(prompt, params, chunks.put)
        future.add_done_callback(chunks.put)  # after the last chunk, or instead of it
        try:
            while isinstance(item := chunks.get(), GenerationOutput):
                yield item
            item.result()
        finally:
            future.cancel()

    def __enter__(self) -> Self:
        self.load()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.unload()
