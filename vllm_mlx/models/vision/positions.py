"""Where tokens stand in time, height and width, as Qwen's vision models count (M-RoPE).

Text counts on in all three at once; an image or a video lies in a grid, and the text behind it goes
on after the grid's longest side. Source: `get_rope_index` of mlx-vlm's qwen2_vl and qwen3_vl.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Block(NamedTuple):
    """Tokens that lie in a grid, from the place `first` of the prompt on."""

    first: int
    time: int
    height: int
    width: int


def rope_positions(length: int, blocks: Iterable[Block]) -> npt.NDArray[np.int32]:
    """Positions of a prompt of `length` tokens: int32 `[3, length]`."""
    positions = np.empty((3, length), np.int32)
    place = at = 0
    for first, *grid in blocks:
        positions[:, place:first] = np.arange(at, at + first - place)
        at += first - place
        place = first + int(np.prod(grid))
        positions[:, first:place] = np.indices(grid).reshape(3, -1) + at
        at += max(grid)
    positions[:, place:] = np.arange(at, at + length - place)
    return positions
