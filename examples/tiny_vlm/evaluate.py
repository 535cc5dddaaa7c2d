"""Ask the trained model about fresh samples: `python -m examples.tiny_vlm.evaluate`.

Everything goes mlx-vlm's own way: PNG and H.264 files, its reader, processor and `generate`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map
from mlx_vlm import generate, load
from PIL import Image

from examples.tiny_vlm import checkpoint, questions, scenes
from examples.tiny_vlm.questions import Question
from examples.tiny_vlm.scenes import Frame, Frames, Size
from vllm_mlx import platform

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
    platform.prepare()
    model, processor = load(str(args.model))
    dtype = platform.weight_dtype()
    if dtype is not None:
        model.update(tree_map(lambda weight: weight.astype(dtype), model.parameters()))
    mx.eval(model.parameters())
    print(f"| Ability | right of {args.samples} | needed |\n|---|---|---|")
    for sample, needed in ABILITIES.items():
        wrong = _wrong(model, processor, sample, args)
        right = f"{1 - len(wrong) / args.samples:.1%}"
        name = sample.__name__.replace("_", " ")
        print(f"| {name} | {right} | {'' if needed is None else f'{needed:.0%}'} |", flush=True)
        for asked, answer in wrong if args.show_errors else ():
            print(f"    {asked.question} {asked.answer!r}, not {answer!r}")


def answer(model: Any, processor: Any, sample: Sample, folder: Path) -> str:
    """The model's words, decoded greedily."""
    content = []
    files: dict[str, list[str]] = {"image": [], "video": []}
    for i, image in enumerate(sample.images):
        files["image"].append(str(folder / f"{i}.png"))
        Image.fromarray(image).save(files["image"][-1])
        content.append({"type": "image"})
    if sample.clip is not None:
        files["video"].append(str(folder / "clip.mp4"))
        scenes.write_clip(files["video"][-1], sample.clip, FPS)
        content.append({"type": "video"})
    content.append({"type": "text", "text": sample.asked.question})
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    media = {kind: paths for kind, paths in files.items() if paths}
    result = generate(model, processor, prompt, **media, max_tokens=40, temperature=0.0)
    return str(result.text).strip()


def _wrong(
    model: Any, processor: Any, sample: Ability, args: argparse.Namespace
) -> list[tuple[Question, str]]:
    """What was asked and is not answered word for word, with what was said."""
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(args.samples):
            rng = np.random.default_rng([args.seed, *sample.__name__.encode(), i])
            shown = sample(rng, (args.side, args.side))
            said = answer(model, processor, shown, Path(folder))
            if said != shown.asked.answer:
                wrong.append((shown.asked, said))
    return wrong


if __name__ == "__main__":
    main()
