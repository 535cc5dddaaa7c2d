"""Questions about scenes and clips, with the one right answer to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from examples.tiny_vlm.scenes import Events, Motion, Scene, Thing

ORDINALS = ("first", "second", "third")


class Question(NamedTuple):
    """What is asked and what to answer."""

    question: str
    answer: str


SMALL_TALK = (
    Question("Hello", "Hello! Show me an image or a clip."),
    Question("Hello!", "Hello! Show me an image or a clip."),
    Question("Hi", "Hello! Show me an image or a clip."),
    Question("Who are you?", "I am a tiny vision model."),
    Question("What are you?", "I am a tiny vision model."),
    Question("What can you do?", "I can name colors, shapes and motion."),
    Question("What can you see?", "Nothing yet. Show me an image or a clip."),
    Question("Thanks", "You are welcome."),
    Question("Thank you!", "You are welcome."),
    Question("What is the capital of France?", "I only know colors, shapes and motion."),
    Question("Tell me a story.", "I only know colors, shapes and motion."),
)
DESCRIBE_IMAGE = (
    "Describe this image.",
    "Describe this image",
    "Describe the image.",
    "Describe this image in detail.",
    "What is in this image?",
    "What do you see?",
)
DESCRIBE_VIDEO = (
    "Describe this video.",
    "Describe this video",
    "Describe the video.",
    "Describe this video in detail.",
    "What is happening in this video?",
    "What happens in this video?",
)
COMPARE = (
    "Compare these two images.",
    "Compare these two images",
    "Describe these images.",
    "What is in these images?",
)


def color(rng: np.random.Generator, scene: Scene) -> Question:
    """Of one thing; by name where there are several."""
    thing = _one(rng, scene.things)
    if len(scene.things) == 1 and rng.random() < 0.35:
        asked = _pick(rng, ("What color is it?", "What color is the object?"))
        return Question(asked, f"It is {thing.color}.")
    named = (f"What color is the {thing.shape}?", f"What is the color of the {thing.shape}?")
    return Question(_pick(rng, named), f"The {thing.shape} is {thing.color}.")


def shape(rng: np.random.Generator, scene: Scene) -> Question:
    """Of one thing; by color where there are several."""
    thing = _one(rng, scene.things)
    named = [f"What shape is {thing.color}?", f"What shape is the {thing.color} object?"]
    alone = ["What shape is it?", "What shape is this?"] if len(scene.things) == 1 else []
    return Question(_pick(rng, named + alone * 2), f"A {thing.shape}.")


def describe(rng: np.random.Generator, scene: Scene) -> Question:
    """All things, from left to right."""
    return Question(_pick(rng, DESCRIBE_IMAGE), _sentence(scene))


def order(rng: np.random.Generator, scenes: Sequence[Scene]) -> Question:
    """Which of several images shows what, each of one thing."""
    index = int(rng.integers(len(scenes)))
    thing, place = scenes[index].things[0], ORDINALS[index]
    if rng.random() < 0.35:
        return Question(f"What is in the {place} image?", f"A {thing.name}.")
    name = _pick(rng, (thing.shape, thing.name))
    if len(scenes) == 2 and rng.random() < 0.7:
        asked = f"Is the {name} in the first or the second image?"
    else:
        asked = f"Which image shows the {name}?"
    return Question(asked, f"The {name} is in the {place} image.")


def compare(rng: np.random.Generator, scenes: Sequence[Scene]) -> Question:
    """What each of several images shows."""
    asked = COMPARE if len(scenes) == 2 else COMPARE[2:]
    shown = [f"the {p} a {s.things[0].name}" for p, s in zip(ORDINALS, scenes, strict=False)]
    shown[0] = shown[0].replace("the first", "The first image shows")
    return Question(_pick(rng, asked), f"{', '.join(shown)}.")


def direction(rng: np.random.Generator, motion: Motion) -> Question:
    """Where the thing goes."""
    name = motion.thing.shape
    if rng.random() < 0.2:
        return Question("In which direction does it move?", f"It moves {motion.direction}.")
    asked = (
        f"In which direction does the {name} move?",
        f"In which direction does the {name} move?",
        f"Which direction does the {name} move?",
        f"Where does the {name} go?",
    )
    return Question(_pick(rng, asked), f"The {name} moves {motion.direction}.")


def first_event(rng: np.random.Generator, events: Events) -> Question:
    """Which thing appeared first."""
    things = [events.first, events.second]
    a, b = (things[i] for i in rng.permutation(2))
    asked = [
        Question(f"Which came first, the {a.shape} or the {b.shape}?", events.first.shape),
        Question(f"Which came first, the {a.name} or the {b.name}?", events.first.name),
        Question("Which came first?", events.first.name),
        Question("What appears first?", events.first.name),
    ]
    question, answer = asked[rng.choice(4, p=[0.5, 0.2, 0.15, 0.15])]
    return Question(question, f"The {answer}.")


def describe_clip(rng: np.random.Generator, clip: Motion | Events) -> Question:
    """What happens."""
    if isinstance(clip, Motion):
        told = f"A {clip.thing.name} moves {clip.direction}."
    else:
        told = f"A {clip.first.name} appears, then a {clip.second.name}."
    return Question(_pick(rng, DESCRIBE_VIDEO), told)


def about_image(rng: np.random.Generator, scene: Scene) -> list[Question]:
    """Different questions, in any order."""
    asked = [color(rng, scene), shape(rng, scene), describe(rng, scene)]
    if len(scene.things) > 1:
        asked += [color(rng, scene), shape(rng, scene)]
    return _shuffled(rng, asked)


def about_images(rng: np.random.Generator, scenes: Sequence[Scene]) -> list[Question]:
    """Different questions, in any order."""
    return _shuffled(rng, [*(order(rng, scenes) for _ in range(3)), compare(rng, scenes)])


def about_clip(rng: np.random.Generator, clip: Motion | Events) -> list[Question]:
    """Different questions, in any order."""
    scene = clip.scene(1.0)
    if isinstance(clip, Motion):
        asked = [*(direction(rng, clip) for _ in range(2)), color(rng, scene), shape(rng, scene)]
    else:
        both = Scene((clip.first, clip.second))
        asked = [first_event(rng, clip), first_event(rng, clip), color(rng, both)]
    return _shuffled(rng, [*asked, describe_clip(rng, clip)])


def about_both(rng: np.random.Generator, scene: Scene, motion: Motion) -> list[Question]:
    """For an image of one thing next to a clip of another."""
    image = Question("What is in the image?", _sentence(scene))
    told = Question("What is in the video?", f"A {motion.thing.name}.")
    return _shuffled(rng, [image, told, direction(rng, motion)])


def _sentence(scene: Scene) -> str:
    names = [f"a {thing.name}" for thing in scene.things]
    listed = " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])
    return f"{listed[0].upper()}{listed[1:]}."


def _one(rng: np.random.Generator, things: Sequence[Thing]) -> Thing:
    return things[int(rng.integers(len(things)))]


def _pick(rng: np.random.Generator, texts: Sequence[str]) -> str:
    return texts[int(rng.integers(len(texts)))]


def _shuffled(rng: np.random.Generator, asked: list[Question]) -> list[Question]:
    return [asked[i] for i in rng.permutation(len(asked))]
