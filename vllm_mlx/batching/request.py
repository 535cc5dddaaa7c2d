"""`Request`: a prompt and how it is to be answered. Needs no MLX."""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

from vllm_mlx.batching.prompts.prompt import (
    Options,
    Prompt,
    chat_prompt,
    split_options,
    user_prompt,
)
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_options import SamplingOptions
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.template_settings import Thinking

ChunkCallback = Callable[[GenerationOutput], None]


def new_request_id() -> str:
    """Return a name that no other request has."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Request:
    """One answer that is asked of an engine.

    Requests of one prompt (the same object) that follow each other in a call are its samples: the
    prompt is encoded once and its media are read once.

    Attributes:
        prompt: a plain prompt, the messages of a chat, or one with media.
        params: how to sample.
        request_id: a name for `abort`, unique among the unfinished.
        on_chunk: called on the engine's thread for every piece of text and for the end.
        on_begin: called when the request is about to enter the batch, or to have its media read:
            what happens to the process from then on may be its fault.
    """

    prompt: Prompt
    params: SamplingParams
    request_id: str = field(default_factory=new_request_id)
    on_chunk: ChunkCallback | None = None
    on_begin: Callable[[], None] | None = None

    @classmethod
    def of_user(
        cls,
        prompt: object,
        options: SamplingOptions | Options,
        images: Any = None,
        videos: Any = None,
        request_id: str | None = None,
    ) -> Self:
        """Return a user's text after images and videos; without any, a plain prompt."""
        params, video = split_options(options)
        asked = user_prompt(prompt, images, videos, video)
        return cls(asked, params, request_id or new_request_id())

    @classmethod
    def of_chat(cls, messages: object, options: Options, request_id: str | None = None) -> Self:
        """Return the request to answer a conversation."""
        params, video = split_options(options)
        return cls(chat_prompt(messages, video), params, request_id or new_request_id())

    def samples(self, n: int) -> list[Self]:
        """Return this request `n` times, with the seeds of `SamplingParams.for_samples`."""
        each = self.params.for_samples(n)
        return [replace(self, params=params, request_id=new_request_id()) for params in each]


def by_prompt(requests: Iterable[Request]) -> Iterator[list[Request]]:
    """Return the samples of each prompt, in order."""
    groups = itertools.groupby(requests, key=_Encoded.of)
    return (list(samples) for _, samples in groups)


class _Encoded(NamedTuple):
    """All that the tokens of a prompt depend on."""

    prompt: int
    thinking: Thinking | None
    arguments: dict[str, Any] | None
    begins: bool | None
    goes_on: bool

    @classmethod
    def of(cls, request: Request) -> Self:
        params = request.params
        return cls(
            id(request.prompt),
            params.thinking,
            params.chat_template_kwargs,
            params.add_generation_prompt,
            params.continue_final_message,
        )


def fail(future: Future[GenerationOutput], error: Exception) -> None:
    """Set the exception of a future, unless it is done or cancelled already."""
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)


@contextlib.contextmanager
def cancelled_on_error(futures: Iterable[Future[GenerationOutput]]) -> Iterator[None]:
    """Cancel these if an error or Ctrl-C leaves the block."""
    try:
        yield
    except BaseException:
        for future in futures:
            future.cancel()
        raise
