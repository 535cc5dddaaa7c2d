"""`Asked`: the workloads of `vision.py`, questions about images and about clips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vllm_mlx.batching.prompts.prompt import MediaPrompt, user_prompt
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.video_params import VideoParams

FPS = 2.0
WORKLOADS = ("images", "clips", "questions")
_BLOCKS = 14  # random ones along the side of a picture

Pixels = npt.NDArray[np.uint8]
"""An image `[height, width, 3]`, or the frames of a clip, `[frames, height, width, 3]`."""


@dataclass(frozen=True)
class Asked:
    """A workload: questions, each with what it is about, the same one's together."""

    name: str
    questions: list[tuple[str, Pixels]]
    tokens: int

    @property
    def output_tokens(self) -> int:
        return self.tokens * len(self.questions)

    @property
    def params(self) -> SamplingParams:
        return SamplingParams.of(max_tokens=self.tokens, temperature=0.0)

    def first(self, count: int) -> Asked:
        return Asked(self.name, self.questions[:count], self.tokens)

    def prompts(self) -> Iterator[MediaPrompt]:
        for question, pixels in self.questions:
            images, clips = ([pixels], None) if pixels.ndim == 3 else (None, [pixels])
            prompt = user_prompt(question, images, clips, clips and VideoParams.of(video_fps=FPS))
            assert isinstance(prompt, MediaPrompt)
            yield prompt

    def media(self) -> Iterator[tuple[Pixels, int]]:
        """Yield each image or clip, and how many questions are about it."""
        ids = [id(pixels) for _, pixels in self.questions]
        for one in dict.fromkeys(ids):
            yield self.questions[ids.index(one)][1], ids.count(one)


def asked(name: str, seed: int, *, count: int, frames: int, size: int, tokens: int) -> Asked:
    """One question about each of `count` images or clips, or ten each about an eighth as many."""
    rng = np.random.default_rng(seed)

    def picture(*shape: int) -> Pixels:
        blocks = rng.integers(0, 256, (*shape, _BLOCKS, _BLOCKS, 3), dtype=np.uint8)
        side = size // _BLOCKS
        return blocks.repeat(side, axis=-3).repeat(side, axis=-2)

    if name == "questions":
        few = [picture(frames) for _ in range(max(1, count // 8))]
        questions = [(f"Question {n}: what is seen?", each) for each in few for n in range(10)]
    elif name == "clips":
        questions = [(f"What happens in clip {n}?", picture(frames)) for n in range(count)]
    else:
        questions = [(f"What is in image {n}?", picture()) for n in range(count)]
    return Asked(name, questions, tokens)
