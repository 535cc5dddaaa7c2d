"""Ask the trained model about fresh samples: `python -m examples.tiny_vlm.evaluate`.

Through the public API, from PNG and H.264 files.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from examples.tiny_vlm import checkpoint, questions, scenes
from examples.tiny_vlm.questions import Question
from examples.tiny_vlm.scenes import Frame, Frames, Size
from vllm_mlx.engine import BatchedEngine

FPS = 10


class Sample(NamedTuple):
    """What is shown and what is asked about it."""

    asked: Question
    images: tuple[Frame, ...] = ()
    clip: Frames | None = None


Ability = Callable[[np.random.Generator, Size], Sample]


def color(rng: np.random.Generator, size: Size) -> Sample:
    """Of one of up to three things."""
    image, scene = scenes.draw_image(rng, size)
    return Sample(questions.color(rng, scene), (image,))


def shape(rng: np.random.Generator, size: Size) -> Sample:
    """Of one of up to three things."""
    image, scene = scenes.draw_image(rng, size)
    return Sample(questions.shape(rng, scene), (image,))


def describe(rng: np.random.Generator, size: Size) -> Sample:
    """One to three things, all of it right."""
    image, scene = scenes.draw_image(rng, size)
    return Sample(questions.describe(rng, scene), (image,))


def order(rng: np.random.Generator, size: Size) -> Sample:
    """Two images."""
    two = scenes.random_scenes(rng, 2)
    return Sample(questions.order(rng, two), tuple(scenes.draw(scene, size) for scene in two))


def direction(rng: np.random.Generator, size: Size) -> Sample:
    """A clip of 2 to 8 seconds."""
    frames, motion = scenes.moving_clip(rng, size, seconds=float(rng.uniform(2, 8)), fps=FPS)
    return Sample(questions.direction(rng, motion), clip=frames)


def first_event(rng: np.random.Generator, size: Size) -> Sample:
    """A clip of 2 to 8 seconds."""
    frames, events = scenes.event_clip(rng, size, seconds=float(rng.uniform(2, 8)), fps=FPS)
    return Sample(questions.first_event(rng, events), clip=frames)


def describe_clip(rng: np.random.Generator, size: Size) -> Sample:
    """A motion or two events, all of it right."""
    film = scenes.moving_clip if rng.random() < 0.5 else scenes.event_clip
    frames, clip = film(rng, size, seconds=float(rng.uniform(2, 8)), fps=FPS)
    return Sample(questions.describe_clip(rng, clip), clip=frames)


# The share of right answers that the tests rely on.
ABILITIES: dict[Ability, float | None] = {
    color: 0.98,
    shape: 0.90,
    order: 0.95,
    direction: 0.95,
    first_event: 0.90,
    describe: None,
    describe_clip: None,
}


def main() -> None:
    """Parse the command line and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=checkpoint.FOLDER)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--side", type=int, default=64, help="of the square pictures, in pixels")
    parser.add_argument("--show-errors", action="store_true")
    args = parser.parse_args()
    print(f"| Ability | right of {args.samples} | needed |\n|---|---|---|")
    for ability, needed in ABILITIES.items():
        wrong = asyncio.run(mistakes(args.model, ability, args.samples, args.seed, args.side))
        right = f"{1 - len(wrong) / args.samples:.1%}"
        name = ability.__name__.replace("_", " ")
        print(f"| {name} | {right} | {'' if needed is None else f'{needed:.0%}'} |", flush=True)
        for asked, said in wrong if args.show_errors else ():
            print(f"    {asked.question} {asked.answer!r}, not {said!r}")


async def mistakes(
    model: Path, ability: Ability, samples: int, seed: int, side: int = 64
) -> list[tuple[Question, str]]:
    """What was asked and is not answered word for word, with what was said."""
    with tempfile.TemporaryDirectory() as folder:
        async with BatchedEngine(str(model)) as engine:

            async def ask(i: int) -> tuple[Question, str]:
                rng = np.random.default_rng([seed, *ability.__name__.encode(), i])
                shown = ability(rng, (side, side))
                images, videos = _files(shown, Path(folder) / str(i))
                output = await engine.generate(
                    shown.asked.question,
                    images=images,
                    videos=videos,
                    max_tokens=40,
                    temperature=0,
                )
                return shown.asked, output.text.strip()

            said = await asyncio.gather(*map(ask, range(samples)))
    return [(asked, text) for asked, text in said if text != asked.answer]


def _files(sample: Sample, folder: Path) -> tuple[list[str], list[str]]:
    """The sample's images and videos, written to disk."""
    folder.mkdir()
    images = [str(folder / f"{i}.png") for i in range(len(sample.images))]
    for path, image in zip(images, sample.images, strict=True):
        Image.fromarray(image).save(path)
    if sample.clip is None:
        return images, []
    clip = str(folder / "clip.mp4")
    scenes.write_clip(clip, sample.clip, FPS)
    return images, [clip]


if __name__ == "__main__":
    main()
