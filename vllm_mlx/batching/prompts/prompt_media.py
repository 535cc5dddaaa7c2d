"""`PromptMedia`: the images and videos among a prompt's tokens.

Shapes: n tokens of the prompt, m of them stand for media, p patches of a medium.
"""

from __future__ import annotations

import hashlib
import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_mlx.outputs import MediaInfo

if TYPE_CHECKING:  # a worker's own process may have no numpy
    import numpy as np
    import numpy.typing as npt


def _no_positions() -> npt.NDArray[np.int32]:
    import numpy as np

    return np.empty((3, 0), np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Medium:
    """One image or video, as a vision tower takes it.

    Attributes:
        grid: patches in time, height and width.
        info: what it is; `info.hash` stands for its pixels.
        patches: gives float32 `[p, values]`; they are read again if they were let go meanwhile.
    """

    grid: tuple[int, int, int]
    info: MediaInfo
    patches: Callable[[], npt.NDArray[np.float32]]

    @property
    def key(self) -> str:
        return self.info.hash


class MediumPart(NamedTuple):
    """Tokens of one medium in a piece of the prompt: its features `[first:last]` go to `columns`
    of the piece."""

    medium: Medium
    first: int
    last: int
    columns: npt.NDArray[np.intp]


@dataclass(slots=True, eq=False)
class PromptMedia:
    """The images and videos of a prompt, and where its tokens stand.

    Attributes:
        infos: images first, then videos, each in the order in which they were given.
        release: called when the patches are not needed any more.
        media: in the order in which they stand in the prompt.
        places: which tokens stand for each of `contents`, in order.
        contents: what stands for the pixels of each medium.
        positions: of all tokens in time, height and width, int32 `[3, n]`.
        sharers: how many other prompts that are still being prepared have the same media.
        inputs: gives all that mlx-vlm's own `generate_step` takes, by name, for models that are
            embedded by mlx-vlm; these have no `media`, and their prefill finds the `positions`.
            They are made again if they were let go meanwhile.
        whole: tokens see later ones, so that the prompt is computed at once, and shared with none.
    """

    infos: tuple[MediaInfo, ...]
    release: Callable[[], None]
    media: tuple[Medium, ...] = ()
    places: tuple[npt.NDArray[np.intp], ...] = ()
    contents: tuple[str, ...] = ()
    positions: npt.NDArray[np.int32] = field(default_factory=_no_positions)
    sharers: int = 0
    inputs: Callable[[], Mapping[str, Any]] | None = None
    whole: bool = False

    @property
    def alone(self) -> bool:
        """Whether no other prompt can be computed beside it."""
        return self.inputs is not None

    @property
    def rope_delta(self) -> int:
        """What a generated token's position is beyond its place: media take fewer positions than
        tokens."""
        return int(self.positions.max(initial=-1) + 1 - self.positions.shape[1])

    @property
    def end(self) -> int:
        """The place behind the last token that stands for a medium."""
        return 1 + max((int(places[-1]) for places in self.places), default=-1)

    def for_samples(self, count: int) -> list[PromptMedia]:
        """Return a copy for each of several samples; releasing all of them releases the media."""
        last = at_call(count, self.release)
        return [replace(self, release=at_call(1, last)) for _ in range(count)]

    def identities(self, tokens: list[int]) -> list[int]:
        """Return the tokens, those of a medium replaced by what stands for its content:
        two prompts that begin with equal ones begin with the same images and videos."""
        if self.whole:  # what comes later changes it from its first token on
            return [-1 - uuid.uuid4().int] * len(tokens)
        found = list(tokens)
        for key, places in zip(self.contents, self.places, strict=True):
            digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
            content = -1 - int.from_bytes(digest)  # no token is negative
            for place in places.tolist():
                found[place] = content
        return found

    def parts(self, start: int, stop: int) -> Iterator[MediumPart]:
        """Yield the media among the tokens `[start:stop]`."""
        for medium, places in zip(self.media, self.places, strict=True):
            first, last = places.searchsorted((start, stop)).tolist()
            if first < last:
                yield MediumPart(medium, first, last, places[first:last] - start)


class MediaRow(NamedTuple):
    """A row of a prefill: its media, if it has any, and which of its tokens are computed."""

    media: PromptMedia | None
    start: int


def at_call(number: int, act: Callable[[], Any]) -> Callable[[], None]:
    """Return a function that acts at its call of this number (from 1) only, on any thread."""
    calls = itertools.count(1)  # `next` of it is atomic

    def call() -> None:
        if next(calls) == number:
            act()

    return call


SteppedModel = Any
"""`model(tokens, cache=caches)` gives logits `[B, L, V]`. One that sees has also
`model.prefill(tokens, caches, rows)`, which computes prompts with media, `rows` a `MediaRow` for
each of `tokens` `[B, L]`; and `model.forget()`, which drops what it keeps of media."""
