"""`Model`: what `MLXLanguageModel` and `MLXMultimodalLM` share."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self, Unpack, overload

from mlx_lm.tokenizer_utils import TokenizerWrapper

from vllm_mlx.adapter import Adapter
from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.prompts.prompt import Messages, MoreMediaOptions, Options
from vllm_mlx.batching.request import Request, cancelled_on_error
from vllm_mlx.batching.request_list import are_chats, each_of, naming
from vllm_mlx.batching.stream import Stream
from vllm_mlx.media.policy import UNRESTRICTED, VideoReader
from vllm_mlx.model_files import require_model
from vllm_mlx.models.loading import load_model
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.scheduler_config import SchedulerConfig


class Model:
    """A model behind plain, synchronous calls: one prompt, or a list of them as one batch.

    Using a model before `load()` loads it. Calls from several threads share the batch. Ctrl-C ends
    the call that it interrupts, and a model that is dropped is freed.

    Args:
        model_name: a hub id, a local folder, a `.gguf` file, or an alias.
        adapter_path: a folder that mlx_lm.lora has written, LoRA or DoRA.
        trust_remote_code: run code that comes with the model.
        video_reader: see `MediaPolicy.video_reader`.
        max_num_seqs: most prompts in the batch; more than that wait. By default the backend's. With
            1 calls are answered strictly in the order of asking; otherwise prompts with images and
            videos join when these are read.

    Raises:
        ModelLoadError: the model or the adapter is not there, as far as this machine knows, or is
            none.
    """

    def __init__(
        self,
        model_name: str,
        *,
        adapter_path: str | Path | None = None,
        trust_remote_code: bool = False,
        video_reader: VideoReader = "auto",
        max_num_seqs: int | None = None,
    ) -> None:
        require_model(model_name)
        self.model_name = model_name
        self.adapter_path = None if adapter_path is None else Adapter.of(adapter_path).folder
        load = partial(load_model, adapter_path=adapter_path, trust_remote_code=trust_remote_code)
        media = replace(UNRESTRICTED, video_reader=video_reader)
        self._core = EngineCore(
            model_name,
            load,
            SchedulerConfig.of(max_num_seqs=max_num_seqs),
            media=media,
            in_line=max_num_seqs == 1,
        )

    def load(self) -> None:
        """Bring the model into memory; does nothing when it is there.

        Raises:
            ModelLoadError: it is missing, unreadable or of an unknown kind.
            EngineStoppedError: the process was forked from one that has loaded a model.
        """
        self._core.start()

    def unload(self) -> None:
        """Free the model's memory; calls that still wait raise `EngineStoppedError`."""
        self._core.stop()

    @property
    def tokenizer(self) -> TokenizerWrapper:
        """The model's tokenizer, as mlx-lm loads it; loads the model if it is not there.

        Raises:
            ModelLoadError: the model can't be loaded.
        """
        self._core.start()
        return self._core.loaded.tokenizer

    @overload
    def chat(
        self, messages: Messages, max_tokens: int | None = None, **options: Unpack[MoreMediaOptions]
    ) -> GenerationOutput: ...
    @overload
    def chat(
        self,
        messages: Sequence[Messages],
        max_tokens: int | None = None,
        **options: Unpack[MoreMediaOptions],
    ) -> list[GenerationOutput]: ...
    def chat(
        self,
        messages: Messages | Sequence[Messages],
        max_tokens: int | None = None,
        **options: Unpack[MoreMediaOptions],
    ) -> GenerationOutput | list[GenerationOutput]:
        """Answer a conversation with the model's own chat template, or several in one batch.

        Args:
            messages: `{"role", "content"}` each. Of a model that sees, content may be a list of
                parts: `{"type": "text", "text": …}`, OpenAI's `image_url` and `video_url`, or
                `{"type": "image", "image": source}`.
            max_tokens: most tokens to generate; 256 by default.
            **options: see `SamplingParams`, and `VideoParams` if there are videos.

        Returns:
            The whole answer; of several conversations, a list of them, in order.

        Raises:
            ChatTemplateError: the model has no chat template, or it rejects the messages.
            MediaError, InvalidRequestError, ModelLoadError: as for `generate`.
        """
        given: Options = {"max_tokens": max_tokens, **options}
        if are_chats(messages):
            return self._all(each_of(messages, lambda chat: Request.of_chat(chat, given)))
        return self._answers(Request.of_chat(messages, given))[0]

    def stream_chat(
        self, messages: Messages, max_tokens: int | None = None, **options: Unpack[MoreMediaOptions]
    ) -> Stream:
        """Answer a conversation, piece by piece; takes what `chat` takes.

        Returns:
            A stream, as of `stream_generate`.

        Raises:
            InvalidRequestError: an argument is wrong; what is found later is the stream's.
        """
        request = Request.of_chat(messages, {"max_tokens": max_tokens, **options})
        return Stream(self._submit, request)

    def _all(self, requests: list[Request]) -> list[GenerationOutput]:
        """Answer what belongs to one call: if something is wrong with one, none is begun."""
        self._core.start()
        futures = self._core.submit(*requests, all_or_none=True)
        outputs = []
        with cancelled_on_error(futures):
            for at, future in enumerate(futures):
                with naming(at):
                    outputs.append(future.result())
        return outputs

    def _answers(self, *requests: Request) -> list[GenerationOutput]:
        futures = self._submit(*requests)
        with cancelled_on_error(futures):
            return [future.result() for future in futures]

    def _submit(self, *requests: Request) -> list[Future[GenerationOutput]]:
        self._core.start()
        return self._core.submit(*requests)

    def __repr__(self) -> str:
        adapter = f" with {self.adapter_path}" if self.adapter_path else ""
        return f"<{type(self).__name__} {self.model_name}{adapter}: {self._core.state}>"

    def __enter__(self) -> Self:
        self.load()
        return self

    def __exit__(self, *_: object) -> None:
        self.unload()
