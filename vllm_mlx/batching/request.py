"""`Request`: a prompt and how it is to be answered. Needs no MLX."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from vllm_mlx.batching.prompts import Prompt
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingParams

ChunkCallback = Callable[[GenerationOutput], None]


def new_request_id() -> str:
    """A name that no other request has."""
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


def by_prompt(requests: Iterable[Request]) -> Iterator[list[Request]]:
    """The samples of each prompt, in order."""
    groups = itertools.groupby(requests, key=lambda request: id(request.prompt))
    return (list(samples) for _, samples in groups)
