"""`Held`: the media of a prompt while somebody needs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from vllm_mlx.batching.prompt_media import at_call
from vllm_mlx.media.store import Sized
from vllm_mlx.outputs import MediaInfo


class Content(Sized, Protocol):
    """What is kept of a medium."""

    @property
    def info(self) -> MediaInfo:
        """What it is."""


T = TypeVar("T", bound=Content)


@dataclass(frozen=True, slots=True, eq=False)
class Pinned(Generic[T]):
    """A medium that stays in memory until `release()`.

    Attributes:
        get: gives its content; it is read again if it was let go meanwhile.
    """

    get: Callable[[], T]
    release: Callable[[], None]


class Held(Generic[T]):
    """The media of a prompt, in order.

    Attributes:
        contents: give each one's content.
        release: lets go of all; nothing happens at further calls.
    """

    def __init__(self, pinned: list[Pinned[T]]) -> None:
        self.contents = [each.get for each in pinned]
        self.release = once(*(each.release for each in pinned))

    @property
    def infos(self) -> tuple[MediaInfo, ...]:
        """Images first, then videos."""
        infos = [get().info for get in self.contents]
        return tuple(sorted(infos, key=lambda info: info.kind == "video"))


def once(*acts: Callable[[], None]) -> Callable[[], None]:
    """All of `acts`, but at the first call only."""
    return at_call(1, lambda: [act() for act in acts])
