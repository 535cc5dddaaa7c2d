"""The peers of `vision.py`: mlx-vlm's `generate_step` and its `batch_generate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlx_vlm.generate.ar import batch_generate, generate_step
from mlx_vlm.utils import prepare_inputs
from PIL import Image

from benchmarks.asked import FPS, Asked, Pixels
from benchmarks.peer import published
from benchmarks.vision_pair import VisionPair


class Peers:
    """mlx-vlm as it was published, with the weights of a pair.

    Args:
        width: questions of one batch.
    """

    def __init__(self, pair: VisionPair, width: int) -> None:
        self._pair = pair
        self._width = width

    def generate(self, asked: Asked) -> None:
        """Answer one question after the other."""
        with published():
            for question, pixels in asked.questions:
                self._generate(question, pixels, asked.tokens)

    def _generate(self, question: str, pixels: Pixels, tokens: int) -> None:
        inputs = self.inputs(question, pixels)
        ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
        steps = generate_step(
            ids,
            self._pair.peers,
            inputs.pop("pixel_values", None),
            mask,
            max_tokens=tokens,
            temperature=0.0,
            **inputs,
        )
        if sum(1 for _ in steps) != tokens:
            raise RuntimeError("mlx-vlm made fewer tokens")

    def batch(self, asked: Asked) -> None:
        """Answer some questions at a time."""
        with published():
            for start in range(0, len(asked.questions), self._width):
                part = asked.questions[start : start + self._width]
                media: dict[str, Any] = {"videos": [_Frames(clip) for _, clip in part], "fps": FPS}
                if part[0][1].ndim == 3:
                    media = {"images": [Image.fromarray(image) for _, image in part]}
                batch_generate(
                    self._pair.peers,
                    self._pair.processor,
                    prompts=[question for question, _ in part],
                    max_tokens=asked.tokens,
                    **media,
                )

    def inputs(self, question: str, pixels: Pixels) -> dict[str, Any]:
        """Return what mlx-vlm's model takes of a question."""
        kind = "image" if pixels.ndim == 3 else "video"
        content = [{"type": kind}, {"type": "text", "text": question}]
        text = self._pair.processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        if kind == "image":
            media: dict[str, Any] = {"images": [Image.fromarray(pixels)]}
        else:
            frames = len(pixels)
            known = {"total_num_frames": frames, "fps": FPS, "frames_indices": [*range(frames)]}
            media = {"videos": [pixels], "video_metadata": [known]}
        made = prepare_inputs(
            self._pair.processor, prompts=[text], add_special_tokens=False, **media
        )
        return dict(made)


@dataclass(frozen=True)
class _Frames:
    """A clip as `batch_generate` takes one that is decoded already: no array, no list."""

    frames: Pixels

    def __len__(self) -> int:
        return len(self.frames)

    def __array__(self, *_: Any, **__: Any) -> Pixels:
        return self.frames
