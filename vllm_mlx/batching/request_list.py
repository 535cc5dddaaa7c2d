"""Lists of prompts and of chats in one call: begun together, or not at all. Needs no MLX."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeGuard, TypeVar

from vllm_mlx.batching.prompts.prompt import Messages
from vllm_mlx.batching.request import Request
from vllm_mlx.errors import InvalidRequestError, MLXBatchError
from vllm_mlx.outputs import GenerationOutput

T = TypeVar("T")


def are_chats(messages: Messages | Sequence[Messages]) -> TypeGuard[Sequence[Messages]]:
    """Whether these are several chats, and not the messages of one."""
    is_list = isinstance(messages, list | tuple) and bool(messages)
    return is_list and all(isinstance(each, list | tuple) for each in messages)


def each_of(items: Iterable[T], make: Callable[[T], Request]) -> list[Request]:
    """Return a request of each item.

    Raises:
        InvalidRequestError: an item is wrong; the message begins with its index.
    """
    requests = []
    for at, item in enumerate(items):
        with naming(at):
            requests.append(make(item))
    return requests


def zip_media(prompts: Sequence[str], images: Any, videos: Any) -> list[tuple[str, Any, Any]]:
    """Return each prompt with its own images and videos.

    Raises:
        InvalidRequestError: there are not as many as prompts.
    """
    for name, given in (("images", images), ("videos", videos)):
        if given is None:
            continue
        if not isinstance(given, list | tuple) or len(given) != len(prompts):
            count = len(given) if isinstance(given, list | tuple) else 1
            raise InvalidRequestError(
                f"{name}: {count} for {len(prompts)} prompts: give a list with those of each "
                "prompt, None where it has none"
            )
    nothing = [None] * len(prompts)
    images, videos = (nothing if each is None else each for each in (images, videos))
    return list(zip(prompts, images, videos, strict=True))


@contextlib.contextmanager
def naming(at: int) -> Iterator[None]:
    """Put the index of an item in front of the errors about it."""
    try:
        yield
    except MLXBatchError as error:
        raise type(error)(f"[{at}]: {error}") from error


def raise_first(futures: Iterable[Future[GenerationOutput]]) -> None:
    """Raise the error of the first that has one already, with its index."""
    for at, future in enumerate(futures):
        if future.done() and not future.cancelled():
            with naming(at):
                future.result()
