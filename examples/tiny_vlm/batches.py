"""Training rows: conversations about scenes, written as Qwen3-VL's processor writes its prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from examples.tiny_vlm import questions, scenes
from examples.tiny_vlm.questions import Question
from examples.tiny_vlm.scenes import Events, Frames, Motion, Scene, Size

ROWS = 18
PATCH, MERGE, GROUP = 8, 2, 2  # pixels, patches and frames; see `checkpoint.py`
Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
_Choice = TypeVar("_Choice")

# What the processor makes of square pictures, of 4:3 and of 16:9.
IMAGE_SIZES: dict[Size, float] = {
    (64, 64): 0.76,
    (48, 64): 0.06,
    (64, 48): 0.06,
    (48, 80): 0.06,
    (80, 48): 0.06,
}
# The same of clips, by frames: all of them together have at most the pixels of 16 of 48 x 48.
CLIP_SIZES: dict[range, dict[Size, float]] = {
    range(4, 6): {(64, 64): 0.6, (48, 80): 0.1, (80, 80): 0.3},
    range(6, 10): {(64, 64): 0.85, (48, 80): 0.15},
    range(10, 17): {(48, 48): 0.85, (32, 64): 0.15},
    range(17, 33): {(32, 32): 1.0},
}
SYSTEM = ("You are a helpful assistant.", "Answer briefly.")


@dataclass(frozen=True)
class Medium:
    """An image, or a clip with a time for each frame."""

    frames: Frames
    times: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Row:
    """A conversation whose first message holds the media."""

    media: Sequence[Medium]
    turns: Sequence[Question]
    text_first: bool = False
    system: str | None = None


class Batch(NamedTuple):
    """Rows of one picture size, padded on the right.

    Attributes:
        ids: `[B, L]`.
        positions: of M-RoPE, `[3, B, L]`.
        pixels: normalized patches of each group of frames, `[G, P, 384]`.
        grid: patches down and across.
        visual: where their features go, flat indices into `[B * L]`.
        asked: flat indices of the tokens that must tell something, and `targets` what: those of
            answers the next one, those of images which image they are of.
    """

    ids: Ints
    positions: Ints
    pixels: Floats
    grid: Size
    visual: Ints
    asked: Ints
    targets: Ints


@dataclass
class _Line:
    """A row's tokens while they are put together."""

    ids: list[int] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    visual: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    next: int = 0

    def text(self, ids: Sequence[int], *, counts: bool = False) -> None:
        if counts:
            self.asked += range(len(self.ids) - 1, len(self.ids) + len(ids) - 1)
            self.targets += ids
        self.positions += [(self.next + i,) * 3 for i in range(len(ids))]
        self.ids += ids
        self.next += len(ids)

    def picture(self, pad: int, grid: Size, ordinal: int | None) -> None:
        height, width = grid[0] // MERGE, grid[1] // MERGE
        count = height * width
        if ordinal is not None:
            self.asked += range(len(self.ids), len(self.ids) + count)
            self.targets += [ordinal] * count
        self.visual += range(len(self.ids), len(self.ids) + count)
        self.ids += [pad] * count
        start = self.next
        self.positions += [
            (start, start + row, start + column) for row in range(height) for column in range(width)
        ]
        self.next += max(height, width)


class Writer:
    """Turns rows into token ids and positions."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def line(self, row: Row, grid: Size) -> _Line:
        """The row's tokens, the last answer's end included."""
        line = _Line()
        if row.system is not None:
            line.text(self._ids(f"<|im_start|>system\n{row.system}<|im_end|>\n"))
        for i, (question, answer) in enumerate(row.turns):
            line.text(self._ids("<|im_start|>user\n"))
            if row.text_first or i:
                line.text(self._ids(question))
            if i == 0:
                self._media(line, row.media, grid)
            if not row.text_first and not i:
                line.text(self._ids(question))
            line.text(self._ids("<|im_end|>\n<|im_start|>assistant\n"))
            line.text(self._ids(f"{answer}<|im_end|>"), counts=True)
            line.text(self._ids("\n"))
        return line

    def _media(self, line: _Line, media: Sequence[Medium], grid: Size) -> None:
        start, end = self._ids("<|vision_start|>"), self._ids("<|vision_end|>")
        image, video = self._ids("<|image_pad|>")[0], self._ids("<|video_pad|>")[0]
        # Without being asked, images' tokens did not come to know which image they are of.
        ordinals = iter(self._ids(f" {ordinal}")[0] for ordinal in questions.ORDINALS)
        for medium in media:
            for seconds in [None] if medium.times is None else group_times(medium.times):
                if seconds is not None:
                    line.text(self._ids(f"<{seconds:.1f} seconds>"))
                line.text(start)
                if seconds is None:
                    line.picture(image, grid, next(ordinals))
                else:
                    line.picture(video, grid, None)
                line.text(end)

    def _ids(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._known[text]


def group_times(times: Sequence[float]) -> list[float]:
    """The mean time of each two frames; an odd last frame is doubled."""
    padded = [*times, *times[-1:] * (-len(times) % GROUP)]
    return [(padded[i] + padded[i + 1]) / 2 for i in range(0, len(padded), GROUP)]


def patches(frames: Floats) -> Floats:
    """Frames `[T, H, W, 3]` of 0 to 1 as the processor gives them, `[T / 2, P, 384]`."""
    if len(frames) % GROUP:
        frames = np.concatenate([frames, frames[-1:]])
    time, height, width = len(frames) // GROUP, frames.shape[1] // PATCH, frames.shape[2] // PATCH
    cut = (frames * 2 - 1).reshape(
        time, GROUP, height // MERGE, MERGE, PATCH, width // MERGE, MERGE, PATCH, 3
    )
    return cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(time, height * width, -1)


def pad(rows: Sequence[Row], writer: Writer, pixels: Floats, grid: Size) -> Batch:
    """Put rows side by side; `pixels` are those of all their media in order."""
    lines = [writer.line(row, grid) for row in rows]
    length = max(len(line.ids) for line in lines)
    ids = np.zeros((len(rows), length), np.int32)
    positions = np.zeros((3, len(rows), length), np.int32)
    for i, line in enumerate(lines):
        ids[i, : len(line.ids)] = line.ids
        positions[:, i, : len(line.ids)] = np.asarray(line.positions).T
    visual = [i * length + at for i, line in enumerate(lines) for at in line.visual]
    asked = [i * length + at for i, line in enumerate(lines) for at in line.asked]
    return Batch(
        ids,
        positions,
        pixels,
        grid,
        np.asarray(visual, np.int32),
        np.asarray(asked, np.int32),
        np.asarray([target for line in lines for target in line.targets], np.int32),
    )


def make(seed: int, kind: str, writer: Writer, step: int) -> Batch:
    """A step's batch of "stills" or "clips"."""
    rng = np.random.default_rng([seed, step, kind == "clips"])
    if kind == "stills":
        size = one_of(rng, IMAGE_SIZES)
        rows = _stills(rng, size)
    else:
        counts = one_of(rng, dict(zip(CLIP_SIZES, (0.25, 0.4, 0.3, 0.05), strict=True)))
        size = one_of(rng, CLIP_SIZES[counts])
        rows = _clips(rng, size, int(rng.choice(counts)))
    media = [camera(rng, medium) for row in rows for medium in row.media]
    return pad(rows, writer, np.concatenate(media), (size[0] // PATCH, size[1] // PATCH))


def _stills(rng: np.random.Generator, size: Size) -> list[Row]:
    rows = []
    for kind in rng.choice(5, ROWS, p=[0.45, 0.38, 0.05, 0.07, 0.05]):
        if kind == 0:
            scene = scenes.random_scene(rng, int(rng.choice([1, 2, 3], p=[0.4, 0.3, 0.3])))
            rows.append(_row(rng, [_image(scene, size)], questions.about_image(rng, scene)))
        elif kind < 3:
            several = scenes.random_scenes(rng, int(kind) + 1)
            asked = questions.about_images(rng, several)
            rows.append(_row(rng, [_image(scene, size) for scene in several], asked))
        elif kind == 3:
            [scene], motion = scenes.random_scenes(rng, 1), scenes.random_motion(rng)
            media = [_image(scene, size), _clip(rng, motion, 4, size)]
            media = [media[i] for i in rng.permutation(2)]
            rows.append(_row(rng, media, questions.about_both(rng, scene, motion)))
        else:
            picked = rng.permutation(len(questions.SMALL_TALK))[:4]
            rows.append(_row(rng, [], [questions.SMALL_TALK[i] for i in picked]))
    return rows


def _clips(rng: np.random.Generator, size: Size, count: int) -> list[Row]:
    rows = []
    for _ in range(min(ROWS, 64 // -(-count // GROUP))):
        moving = rng.random() < 0.5
        clip = scenes.random_motion(rng) if moving else scenes.random_events(rng)
        rows.append(_row(rng, [_clip(rng, clip, count, size)], questions.about_clip(rng, clip)))
    return rows


def _row(rng: np.random.Generator, media: list[Medium], turns: list[Question]) -> Row:
    system = SYSTEM[int(rng.integers(len(SYSTEM)))] if rng.random() < 0.05 else None
    return Row(media, turns, text_first=bool(rng.random() < 0.12), system=system)


def _image(scene: Scene, size: Size) -> Medium:
    return Medium(scenes.draw(scene, size)[None])


def _clip(rng: np.random.Generator, clip: Motion | Events, count: int, size: Size) -> Medium:
    """The clip as a reader samples it: at a rate or spread from its first to its last frame."""
    rate = 2.0 if rng.random() < 0.7 else float(rng.choice([1.0, 1.5, 3.0, 4.0]))
    fps = int(rng.choice([8, 10, 12, 24, 25, 30]))
    length = max(count, round(count / rate * fps))
    if rng.random() < 0.3:
        indices = np.linspace(0, length - 1, count).round()
    else:
        indices = np.minimum(np.round(np.arange(count) * fps / rate), length - 1)
    moments = indices / max(1, length - 1)
    return Medium(scenes.film(clip, moments, size), tuple(float(i / fps) for i in indices))


def camera(rng: np.random.Generator, medium: Medium) -> Floats:
    """Patches of what a camera and a codec leave: tinted, blurred, noisy."""
    frames = medium.frames.astype(np.float32) / 255
    frames = frames * rng.uniform(0.9, 1.08, 3).astype(np.float32)
    frames += np.float32(rng.uniform(-0.03, 0.03))
    if rng.random() < 0.5:
        frames = _halve_color(frames)
    if rng.random() < 0.3:
        frames = _blur(frames)
    noise = rng.standard_normal(frames.shape, np.float32)
    frames += noise * np.float32(rng.uniform(0, 0.03))
    # An image is shown twice to fill its group of frames.
    frames = frames.clip(0, 1)
    return patches(np.repeat(frames, GROUP, axis=0) if medium.times is None else frames)


def _halve_color(frames: Floats) -> Floats:
    light = frames.mean(axis=3, keepdims=True)
    time, height, width, _ = frames.shape
    color = (frames - light).reshape(time, height // 2, 2, width // 2, 2, 3).mean(axis=(2, 4))
    return light + color.repeat(2, axis=1).repeat(2, axis=2)


def _blur(frames: Floats) -> Floats:
    for axis in (1, 2):
        frames = (2 * frames + np.roll(frames, 1, axis) + np.roll(frames, -1, axis)) / 4
    return frames


def one_of(rng: np.random.Generator, shares: dict[_Choice, float]) -> _Choice:
    return list(shares)[int(rng.choice(len(shares), p=list(shares.values())))]
