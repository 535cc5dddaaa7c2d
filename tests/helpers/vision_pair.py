"""A tiny model of ours that sees, beside the same one as mlx-vlm runs it."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx_vlm
import numpy as np
from mlx_vlm.generate.ar import generate_step
from mlx_vlm.prompt_utils import apply_chat_template, get_chat_template
from mlx_vlm.utils import prepare_inputs, should_add_special_tokens
from PIL import Image

from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.prompts.prompt import user_prompt
from vllm_mlx.batching.request import Request
from vllm_mlx.media.policy import UNRESTRICTED
from vllm_mlx.models import MLXMultimodalLM
from vllm_mlx.models.loading import load_model
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig

QUESTION = "What is it?"
TOKENS, SLOTS = 10, 3
Row = tuple[list[Any], str, int]
"""Images, a question and how many tokens its answer has at most."""


def pixels(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 255, (40, 48, 3), dtype=np.uint8)


def images(*arrays: Any) -> list[Image.Image]:
    return [Image.fromarray(array) for array in arrays]


def shown_as(media: list[Any]) -> dict[str, Any]:
    return {"images": images(*media)} if media else {}


@dataclass(frozen=True, eq=False)
class Pair:
    """A model of ours, and the same as mlx-vlm loads it."""

    name: str
    ours: MLXMultimodalLM
    model: Any
    processor: Any

    @classmethod
    def of(cls, folder: Path, **bounds: Any) -> Pair:
        model, processor = mlx_vlm.load(str(folder))
        return cls(folder.name, several_at_once(str(folder), **bounds), model, processor)

    @property
    def runner(self) -> Any:
        self.ours.load()
        return self.ours._core._running().parts.runner

    @property
    def end(self) -> set[int]:
        self.ours.load()
        return set(self.ours._core.loaded.tokenizer.eos_token_ids)

    def answer(self, **media: Any) -> Any:
        return self.ours.generate(QUESTION, max_tokens=TOKENS, temperature=0.0, logprobs=0, **media)

    def submit(
        self, media: list[Any], question: str, tokens: int, name: str | None = None
    ) -> Future[GenerationOutput]:
        """Ask without waiting."""
        self.ours.load()
        prompt = user_prompt(question, media, None, None)
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        params = SamplingParams.of(max_tokens=tokens, temperature=0.0, logprobs=0)
        named = Request(prompt, params) if name is None else Request(prompt, params, name)
        return self.ours._core.submit(named)[0]

    def tokens_of(self, rows: list[Row], *, aborted: int = 0) -> list[list[int]]:
        """What ours answers to rows of images, a question and a limit, all asked at once.

        Args:
            aborted: how many of them are asked a second time each, and aborted.
        """
        futures = [self.submit(*row) for row in rows]
        for at in range(aborted):
            self.submit(*rows[at], name=f"{at}")
        for at in range(aborted):
            self.ours._core.abort(f"{at}")
        return [[each.token_id for each in future.result().logprobs or ()] for future in futures]

    def each_alone(self, rows: list[Row]) -> list[list[int]]:
        """What mlx-vlm answers to them, one after the other."""
        return [
            self.alone(*["image"] * len(media), question=text, tokens=most, **shown_as(media))
            for media, text, most in rows
        ]

    def alone(
        self, *kinds: str, question: str = QUESTION, tokens: int = TOKENS, **media: Any
    ) -> list[int]:
        """What mlx-vlm answers by itself, the media standing before the question."""
        parts = [{"type": kind} for kind in kinds] + [{"type": "text", "text": question}]
        messages: Any = [{"role": "user", "content": parts if kinds else question}]
        config, processor = self.model.config, self.processor
        if "video" in kinds:
            text = get_chat_template(processor, messages, True)
        else:
            text = apply_chat_template(processor, config, messages, num_images=len(kinds))
        inputs = prepare_inputs(
            processor,
            prompts=[text],
            add_special_tokens=should_add_special_tokens(self.name, processor),
            **media,
        )
        ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
        steps = generate_step(
            ids,
            self.model,
            inputs.pop("pixel_values", None),
            mask,
            max_tokens=tokens,
            temperature=0.0,
            **inputs,
        )
        found, ends = [int(token) for token, _ in steps], self.end
        end = next((at for at, token in enumerate(found) if token in ends), tokens)
        return found[: end + 1]


def several_at_once(folder: str, **bounds: Any) -> MLXMultimodalLM:
    """A model whose rows run in slots, a few of them."""
    model = MLXMultimodalLM(folder)
    config = SchedulerConfig(**{"max_num_seqs": SLOTS, **bounds})
    model._core = EngineCore(folder, load_model, config, media=UNRESTRICTED)
    return model
