"""`Expander`: messages with media as tokens, of which a run stands for each image and video."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_mlx.batching.loaded_model import template_errors
from vllm_mlx.batching.prompts.prompt import MediaPrompt
from vllm_mlx.batching.prompts.prompt_media import Medium
from vllm_mlx.content import MediaKind, Part, with_media
from vllm_mlx.errors import MediaError
from vllm_mlx.models.architectures import TIMED_VIDEOS
from vllm_mlx.models.vision.positions import Block
from vllm_mlx.outputs import MediaInfo

MILLISECONDS = 1000


class _Done:
    """Stands in for an image or video processor whose work is done already."""

    def __init__(self, original: Any, key: str, media: list[Medium]) -> None:
        self._made = {key: np.array([medium.grid for medium in media])}
        self.merge_size = original.merge_size
        self.temporal_patch_size = original.temporal_patch_size

    def __call__(self, **_: Any) -> dict[str, Any]:
        return self._made


class Expander:
    """Writes prompts as mlx-vlm's own processor does, from the grids of media that are read."""

    def __init__(self, processor: Any, config: Any) -> None:
        self._processor = processor
        self._image_id = token_id(config, "image")
        self._video_id = token_id(config, "video")
        self._merge = config.vision_config.spatial_merge_size
        # Each group of frames is then a grid of its own.
        self._is_timed = config.model_type.startswith(TIMED_VIDEOS)
        # transformers' fast tokenizers may not be used from two threads at once.
        self._lock = threading.Lock()

    def expand(
        self, prompt: MediaPrompt, media: Sequence[Medium]
    ) -> tuple[list[int], list[npt.NDArray[np.intp]], list[Block]]:
        """Return token ids, each medium's places among them, and the grids that these lie in.

        Args:
            media: those of the messages, in order.

        Raises:
            ChatTemplateError: the template rejects the messages.
            MediaError: the text holds placeholders of its own.
        """
        images = [medium for medium in media if medium.info.kind == "image"]
        videos = [medium for medium in media if medium.info.kind == "video"]
        with self._lock:
            text = self._render(prompt)
            self._check(text, images, videos)
            tokens = self._tokens(text, images, videos)
        places = dict(self._places(tokens, self._image_id, images))
        places |= self._places(tokens, self._video_id, videos)
        blocks = [block for medium in media for block in self._blocks(medium, places[medium])]
        return tokens.tolist(), [places[medium] for medium in media], sorted(blocks)

    def _render(self, prompt: MediaPrompt) -> str:
        def by_type(part: Part) -> list[Part]:
            return [{"type": part["type"]}]

        with template_errors():
            text = self._processor.tokenizer.apply_chat_template(
                [
                    {**each, "content": with_media(each["content"], by_type)}
                    for each in prompt.messages
                ],
                chat_template=getattr(self._processor, "chat_template", None),
                tokenize=False,
                **{"add_generation_prompt": True, **prompt.arguments},
            )
        return str(text)

    def _check(self, text: str, images: list[Medium], videos: list[Medium]) -> None:
        for token, media, kind in (
            (self._processor.image_token, images, "images"),
            (self._processor.video_token, videos, "videos"),
        ):
            given, count = len(media), text.count(token)
            if count < given:
                raise MediaError(
                    f"the chat template shows {count} of {given} {kind}: show them in a message of "
                    "the user"
                )
            if count > given:
                raise MediaError(
                    f"the prompt has {count} placeholders {token} for {given} {kind}: leave them "
                    "out of the text, they are written where the media stand"
                )

    def _tokens(
        self, text: str, images: list[Medium], videos: list[Medium]
    ) -> npt.NDArray[np.int64]:
        processor = copy.copy(self._processor)
        original = processor.image_processor
        processor.image_processor = _Done(original, "image_grid_thw", images)
        original = getattr(processor, "video_processor", None) or original
        processor.video_processor = _Done(original, "video_grid_thw", videos)
        options: dict[str, Any] = {"video_metadata": [metadata_of(v.info) for v in videos]}
        made = processor(
            text=[text],
            images=images or None,
            videos=videos or None,
            add_special_tokens=False,
            **options if videos and self._is_timed else {},
        )
        return np.array(made["input_ids"]).reshape(-1)

    def _places(
        self, tokens: npt.NDArray[np.int64], token_id: int, media: list[Medium]
    ) -> Iterator[tuple[Medium, npt.NDArray[np.intp]]]:
        places = np.flatnonzero(tokens == token_id)
        counts = [int(np.prod(medium.grid)) // self._merge**2 for medium in media]
        if sum(counts) != places.size:
            raise MediaError(
                f"the prompt has {places.size} tokens for media that make {sum(counts)}: leave "
                "placeholders out of the text, they are written where the media stand"
            )
        yield from zip(media, np.split(places, np.cumsum(counts)[:-1]), strict=False)

    def _blocks(self, medium: Medium, places: npt.NDArray[np.intp]) -> Iterator[Block]:
        time, height, width = medium.grid
        height, width = height // self._merge, width // self._merge
        if medium.info.kind == "video" and self._is_timed:
            for group in places.reshape(time, -1):
                yield Block(int(group[0]), 1, height, width)
        else:
            yield Block(int(places[0]), time, height, width)


def token_id(config: Any, kind: MediaKind) -> int:
    """Return the token that stands for images or videos."""
    found = getattr(config, f"{kind}_token_id", None)
    return int(found if found is not None else getattr(config, f"{kind}_token_index"))


def media_tokens(config: Any) -> frozenset[int]:
    """Return the tokens that stand for images and videos."""
    return frozenset({token_id(config, "image"), token_id(config, "video")})


def metadata_of(info: MediaInfo) -> dict[str, Any]:
    """Frames by their time: at 1,000 frames a second their numbers are milliseconds."""
    numbers = [round(time * MILLISECONDS) for time in info.timestamps]
    duration = round((info.duration_s or 0.0) * MILLISECONDS)
    total = max(duration, numbers[-1] + 1)
    return {"fps": MILLISECONDS, "frames_indices": numbers, "total_num_frames": total}
