"""Pictures and clips of colored shapes: what the tiny model learns, is tested and shown on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]  # [H, W, 3]
Frames = NDArray[np.uint8]  # [T, H, W, 3]
Size = tuple[int, int]  # height, width

SIZE: Size = (64, 64)
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 90, 235),
    "yellow": (240, 215, 50),
    "purple": (165, 60, 205),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "cross")
# Of the way that a thing moves: x to the right, y down.
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}


@dataclass(frozen=True)
class Thing:
    """A shape; its center in shares of width and height, its radius of the shorter side."""

    color: str
    shape: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What one picture shows, from left to right."""

    things: tuple[Thing, ...]
    background: tuple[int, int, int] = (20, 20, 20)


@dataclass(frozen=True)
class Motion:
    """One thing crosses the picture at even speed."""

    thing: Thing  # where it is in the middle of the clip
    direction: str
    distance: float  # of the whole way, in shares of the picture
    background: tuple[int, int, int]

    def scene(self, moment: float) -> Scene:
        """The picture at `moment`, 0 to 1 of the clip."""
        (dx, dy), way = DIRECTIONS[self.direction], self.distance * (moment - 0.5)
        moved = replace(self.thing, x=self.thing.x + dx * way, y=self.thing.y + dy * way)
        return Scene((moved,), self.background)


@dataclass(frozen=True)
class Events:
    """Two things appear one after the other; the first may go when the second comes."""

    first: Thing
    second: Thing
    starts: tuple[float, float]
    first_stays: bool
    background: tuple[int, int, int]

    def scene(self, moment: float) -> Scene:
        """The picture at `moment`, 0 to 1 of the clip."""
        begun, ended = moment >= self.starts[0], moment >= self.starts[1]
        things = [self.first] if begun and (self.first_stays or not ended) else []
        return Scene((*things, *([self.second] if ended else [])), self.background)


def draw(scene: Scene, size: Size = SIZE) -> Frame:
    """The scene's picture, with smooth edges."""
    height, width = size
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    picture = np.broadcast_to(np.asarray(scene.background, np.float32), (height, width, 3))
    for thing in scene.things:
        radius = thing.radius * min(size)
        edge = _distance(thing.shape, xs - thing.x * width, ys - thing.y * height, radius)
        cover = np.clip(0.5 - edge, 0, 1)[..., None]
        picture = picture * (1 - cover) + np.asarray(COLORS[thing.color], np.float32) * cover
    return np.round(picture).astype(np.uint8)


def draw_image(
    rng: np.random.Generator, size: Size = SIZE, *, count: int | None = None
) -> tuple[Frame, Scene]:
    """A picture of `count` things (one to three if None) and what it shows."""
    scene = random_scene(rng, int(rng.integers(1, 4)) if count is None else count)
    return draw(scene, size), scene


def moving_clip(
    rng: np.random.Generator, size: Size = SIZE, *, seconds: float = 4.0, fps: int = 8
) -> tuple[Frames, Motion]:
    """Frames of a thing that moves, and how it does."""
    motion = random_motion(rng)
    return film(motion, np.linspace(0, 1, round(seconds * fps)), size), motion


def event_clip(
    rng: np.random.Generator, size: Size = SIZE, *, seconds: float = 4.0, fps: int = 8
) -> tuple[Frames, Events]:
    """Frames of two things that appear in turn, and which when."""
    events = random_events(rng)
    return film(events, np.linspace(0, 1, round(seconds * fps)), size), events


def film(
    clip: Motion | Events, moments: Sequence[float] | NDArray[np.float64], size: Size
) -> Frames:
    """The clip's pictures at these moments, 0 to 1."""
    return np.stack([draw(clip.scene(float(moment)), size) for moment in moments])


def write_clip(path: str | Path, frames: Frames, fps: int) -> None:
    """Write an H.264 file; sides must be even."""
    import av  # only who writes files needs it

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "20"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def random_scene(rng: np.random.Generator, count: int) -> Scene:
    """`count` things of different colors and shapes that do not touch."""
    low, high = {1: (0.15, 0.3), 2: (0.14, 0.21), 3: (0.13, 0.18)}[count]
    things = [_thing(rng, *kind, (low, high)) for kind in _kinds(rng, count)]
    while not _apart(things):
        things = [_moved(rng, thing) for thing in things]
    return Scene(tuple(sorted(things, key=lambda thing: thing.x)), _background(rng))


def random_scenes(rng: np.random.Generator, count: int) -> list[Scene]:
    """Scenes of one thing each, all of different colors and shapes."""
    things = [_thing(rng, *kind, (0.15, 0.3)) for kind in _kinds(rng, count)]
    return [Scene((thing,), _background(rng)) for thing in things]


def random_motion(rng: np.random.Generator) -> Motion:
    """A thing on its way."""
    [kind] = _kinds(rng, 1)
    direction, distance = str(rng.choice(list(DIRECTIONS))), float(rng.uniform(0.35, 0.6))
    radius = float(rng.uniform(0.14, 0.2))
    along, across = 0.5 + rng.uniform(-0.04, 0.04), rng.uniform(radius, 1 - radius)
    x, y = (along, across) if DIRECTIONS[direction][0] else (across, along)
    thing = Thing(*kind, float(x), float(y), radius)
    return Motion(thing, direction, distance, _background(rng))


def random_events(rng: np.random.Generator) -> Events:
    """Two things in turn; each is alone on at least one of four frames spread over the clip."""
    scene = random_scene(rng, 2)
    first, second = (scene.things[i] for i in rng.permutation(2))
    start = float(rng.uniform(0, 0.27))
    starts = (start, start + float(rng.uniform(0.36, 0.45)))
    return Events(first, second, starts, bool(rng.random() < 0.5), scene.background)


def _kinds(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    colors, shapes = (rng.permutation(names)[:count] for names in (list(COLORS), SHAPES))
    return [(str(color), str(shape)) for color, shape in zip(colors, shapes, strict=True)]


def _thing(rng: np.random.Generator, color: str, shape: str, radii: tuple[float, float]) -> Thing:
    return _moved(rng, Thing(color, shape, 0, 0, float(rng.uniform(*radii))))


def _moved(rng: np.random.Generator, thing: Thing) -> Thing:
    x, y = rng.uniform(thing.radius, 1 - thing.radius, 2)
    return replace(thing, x=float(x), y=float(y))


def _apart(things: list[Thing]) -> bool:
    """Whether none touches another, and left to right is clear."""
    pairs = [(a, b) for i, a in enumerate(things) for b in things[:i]]
    return all(
        np.hypot(a.x - b.x, a.y - b.y) > 1.15 * (a.radius + b.radius) and abs(a.x - b.x) > 0.12
        for a, b in pairs
    )


def _background(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = np.clip(rng.integers(0, 60) + rng.integers(-8, 9, 3), 0, 255)
    return int(red), int(green), int(blue)


def _distance(
    shape: str, x: NDArray[np.float32], y: NDArray[np.float32], radius: float
) -> NDArray[np.float32]:
    """Pixels from the shape's edge, negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 0.85 * radius
    if shape == "triangle":
        sides = np.maximum(0.866 * abs(x) - 0.5 * y, y)
        return sides - 0.6 * radius
    bars = np.maximum(abs(x), 3 * abs(y)), np.maximum(3 * abs(x), abs(y))
    return np.minimum(*bars) - radius
