"""The first stage of training: the vision tower alone learns what is where.

Each of its features is asked, through a linear layer that is thrown away, for the shape and color
of the thing at its place, how far that thing's middle is, and how it moves. So much to learn from
one picture makes the difference: by the answers to questions alone, shapes took ten times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_vlm.models.qwen3_vl.vision import VisionModel

from examples.tiny_vlm import batches, network, scenes
from examples.tiny_vlm.batches import GROUP, MERGE, PATCH, Floats, Ints, Medium
from examples.tiny_vlm.scenes import COLORS, SHAPES, Scene, Size

GROUPS = 48
SHARPNESS = 8  # what small features are multiplied by
HASTE = 6  # a motion is a fraction of a cell and must count as much as a place
CELL = PATCH * MERGE  # pixels that a feature covers
SIZES: dict[Size, float] = {
    (64, 64): 0.4,
    (48, 48): 0.2,
    (48, 80): 0.1,
    (80, 80): 0.08,
    (48, 64): 0.05,
    (64, 48): 0.05,
    (80, 48): 0.04,
    (32, 64): 0.04,
    (32, 32): 0.04,
}


class Glances(NamedTuple):
    """Groups of two frames, and for each feature of theirs `[G * N]` what is at its place.

    Attributes:
        shapes, colors: one more than the index, 0 where nothing is.
        seen: 1 where something is.
        places: how far its middle is, in cells, and `HASTE` times its way from frame to frame.
    """

    pixels: Floats
    grid: Size
    shapes: Ints
    colors: Ints
    seen: Floats
    places: Floats


class Eyes(nn.Module):
    """A vision tower with a linear layer on each of its outputs."""

    def __init__(self, tower: VisionModel, width: int) -> None:
        super().__init__()
        self.tower = tower
        outputs = 1 + len(tower.deepstack_visual_indexes)
        self.heads = [
            nn.Linear(width, len(SHAPES) + 1 + len(COLORS) + 1 + 4) for _ in range(outputs)
        ]


def loss(eyes: Eyes, glances: Glances) -> mx.array:
    """How wrong all outputs are, and how large: they join embeddings of tokens, which are small."""
    features, deep = network.encode(eyes.tower, mx.array(glances.pixels), glances.grid)
    losses = [
        _wrong(SHARPNESS * head(each), glances) + 0.02 * each.square().mean()
        for head, each in zip(eyes.heads, [features, *deep], strict=True)
    ]
    return mx.stack(losses).mean()


def _wrong(told: mx.array, glances: Glances) -> mx.array:
    shapes, colors, places = mx.split(
        told, [len(SHAPES) + 1, len(SHAPES) + 1 + len(COLORS) + 1], axis=-1
    )
    seen = mx.array(glances.seen)[:, None]
    wrong = nn.losses.cross_entropy(shapes, mx.array(glances.shapes), reduction="mean")
    wrong += nn.losses.cross_entropy(colors, mx.array(glances.colors), reduction="mean")
    far = (places - mx.array(glances.places)).square() * seen
    return wrong + far.sum() / (places.shape[-1] * seen.sum())


def make(seed: int, kind: str, step: int) -> Glances:
    """A step's batch for one process."""
    rng = np.random.default_rng([seed, step, len(kind), 1])
    size = batches.one_of(rng, SIZES)
    pairs = [_pair(rng) for _ in range(GROUPS)]
    media = [
        Medium(np.stack([scenes.draw(scene, size) for scene in pair]), (0.0, 0.5)) for pair in pairs
    ]
    pixels = np.concatenate([batches.camera(rng, medium) for medium in media])
    told = np.concatenate([_cells(pair, size) for pair in pairs])
    return Glances(
        pixels,
        (size[0] // PATCH, size[1] // PATCH),
        told[:, 0].astype(np.int32),
        told[:, 1].astype(np.int32),
        np.float32(told[:, 0] > 0),
        told[:, 2:],
    )


def _pair(rng: np.random.Generator) -> Sequence[Scene]:
    """Two neighbouring frames: at rest or, if of one thing, perhaps on its way."""
    if rng.random() < 0.55:
        motion = scenes.random_motion(rng)
        start, way = rng.uniform(0, 0.75), rng.uniform(0.05, 0.25)
        return motion.scene(start), motion.scene(start + way)
    scene = scenes.random_scene(rng, int(rng.integers(1, 4)))
    return (scene,) * GROUP


def _cells(pair: Sequence[Scene], size: Size) -> Floats:
    """For each feature of a group: shape, color, the way to the thing's middle, its motion."""
    rows, columns = size[0] // CELL, size[1] // CELL
    told = np.zeros((rows, columns, 6), np.float32)
    ys, xs = np.mgrid[0:rows, 0:columns] + 0.5
    nearest = np.full((rows, columns), np.inf)
    for before, after in zip(*(scene.things for scene in pair), strict=True):
        y, x = (before.y + after.y) / 2 * rows, (before.x + after.x) / 2 * columns
        far = np.hypot(ys - y, xs - x)
        here = (far < before.radius * min(size) / CELL + 0.4) & (far < nearest)
        nearest[here] = far[here]
        kind = SHAPES.index(before.shape) + 1, list(COLORS).index(before.color) + 1
        motion = HASTE * (after.x - before.x) * columns, HASTE * (after.y - before.y) * rows
        there = np.stack([np.full_like(xs, value) for value in (*kind, 0, 0, *motion)], axis=-1)
        there[..., 2], there[..., 3] = x - xs, y - ys
        told[here] = there[here]
    return told.reshape(-1, 6)
