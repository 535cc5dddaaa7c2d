"""`InputsPreparer`: from messages with media to what a model of mlx-vlm takes."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_vlm.utils import prepare_inputs, should_add_special_tokens
from PIL import Image

from vllm_mlx.batching.prompts.prompt import MediaPrompt, Messages, Prepared
from vllm_mlx.batching.prompts.prompt_media import PromptMedia
from vllm_mlx.errors import ChatTemplateError, MediaError
from vllm_mlx.media.policy import UNRESTRICTED, MediaPolicy
from vllm_mlx.media.store import MediaStore
from vllm_mlx.models.vision.abilities import abilities_of
from vllm_mlx.models.vision.chat import Chat
from vllm_mlx.models.vision.pixels import AsPixels, Pixels
from vllm_mlx.models.vision.placeholders import metadata_of
from vllm_mlx.models.vision.reading import MediaReader, infos_of
from vllm_mlx.models.vision.sharing import content_places, is_whole
from vllm_mlx.video_params import VideoParams

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """All that a prompt is to a model: `input_ids` and whatever its architecture has besides."""

    by_name: dict[str, Any]

    @property
    def tokens(self) -> list[int]:
        tokens: list[int] = self.by_name["input_ids"][0].tolist()
        return tokens

    @property
    def nbytes(self) -> int:
        values: Any = tree_flatten(self.by_name)
        return sum(value.nbytes for _, value in values if isinstance(value, mx.array))


class Processing:
    """mlx-vlm's processor of a model that mlx-vlm embeds. Every method is thread-safe.

    Args:
        model, processor: as mlx-vlm loads them.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self._config = model.config
        self._processor = processor
        self.abilities = abilities_of(model.config.model_type.lower(), processor)
        self._chat = Chat(model.config, processor, videos_as_frames=False)
        if self.abilities.videos == "video" and not self._chat.places_videos():
            self.abilities = self.abilities._replace(videos="frames")
        if self.abilities.videos == "frames":
            self._chat = Chat(model.config, processor, videos_as_frames=True)
        # transformers' fast tokenizers may not be used from two threads at once.
        self._lock = threading.Lock()

    def encode(self, messages: Messages, arguments: Mapping[str, Any]) -> list[int]:
        """Return token ids of messages without media.

        Args:
            arguments: what the chat template takes beside them.

        Raises:
            ChatTemplateError: the template rejects the messages.
        """
        with self._lock:
            return self._prepared(self._chat.text(messages, arguments)).tokens

    def write(self, messages: Messages, arguments: Mapping[str, Any]) -> str:
        """Return the text of messages without media.

        Args:
            arguments: what the chat template takes beside them.

        Raises:
            ChatTemplateError: the template rejects the messages.
        """
        with self._lock:
            return self._chat.text(messages, arguments)

    def inputs(self, prompt: MediaPrompt, media: Sequence[Pixels]) -> Inputs:
        """Return what the model takes of a prompt.

        Args:
            media: those of its messages, in order.

        Raises:
            ChatTemplateError: the template rejects the messages.
            MediaError: the model can't be shown these media.
        """
        images = [each for each in media if each.info.kind == "image"]
        videos = [each for each in media if each.info.kind == "video"]
        self.abilities.check(len(images), len(videos))
        if self.abilities.videos == "frames":
            images, videos = list(media), []
        with self._lock:
            text = self._chat.text(prompt.messages, prompt.arguments, media)
            inputs = self._processed(text, images, videos)
        # Some processors compute with MLX, and other threads can't finish what this one began.
        mx.eval(inputs.by_name)
        return inputs

    def _processed(self, text: str, images: list[Pixels], videos: list[Pixels]) -> Inputs:
        given: dict[str, Any] = {}
        if images:
            given["images"] = [Image.fromarray(frame) for each in images for frame in each.frames]
        if videos:
            given["videos"] = [each.frames for each in videos]
            given["video_metadata"] = [metadata_of(each.info) for each in videos]
        name = self.abilities.model_type
        try:
            made = self._prepared(text, **given)
        except Exception as error:  # whatever a processor does with an image
            raise MediaError(f"{name} can't be shown these images or videos: {error}") from error
        for key, wanted in (("pixel_values", images), ("pixel_values_videos", videos)):
            if wanted and made.by_name.get(key) is None:
                raise MediaError(
                    f"the processor of {name} left out a {wanted[0].info.kind}: use a model that "
                    "takes it (docs/models.md lists some)"
                )
        return made

    def _prepared(self, text: str, **media: Any) -> Inputs:
        made = prepare_inputs(
            self._processor,
            prompts=[text],
            image_token_index=getattr(self._config, "image_token_index", None),
            add_special_tokens=should_add_special_tokens(self._config.model_type, self._processor),
            **media,
        )
        return Inputs(dict(made))


class InputsPreparer:
    """`Preparer` of a model that mlx-vlm embeds.

    Args:
        policy: what may be read for a prompt.
        max_bytes: most of inputs that are held for prompts to come, and of pixels beside them.
    """

    def __init__(self, processing: Processing, policy: MediaPolicy, *, max_bytes: int) -> None:
        self._processing = processing
        self._pixels: MediaStore[Pixels] = MediaStore(max_bytes)
        self._inputs: MediaStore[Inputs] = MediaStore(max_bytes)
        self._reader = MediaReader(AsPixels(), self._pixels, policy)

    def wait_for_room(self) -> None:
        self._inputs.wait_for_room()

    def close(self) -> None:
        self._pixels.close()
        self._inputs.close()

    def prepare(self, prompt: MediaPrompt) -> Prepared:
        """Read the media of a prompt and make its inputs.

        Raises:
            MediaError: a medium can't be read or may not be, or the model can't be shown it.
            ChatTemplateError: the template rejects the messages.
        """
        key = uuid.uuid4().hex  # no two prompts share their inputs
        with ExitStack() as pin, ExitStack() as pins:
            contents = self._reader.read_all(prompt, pins)

            def inputs() -> Inputs:
                return self._inputs.get(
                    key,
                    lambda: self._processing.inputs(prompt, [get() for get in contents]),
                )

            self._inputs.pin(key)
            pin.callback(self._inputs.unpin, key, keep=False)
            infos, tokens = infos_of(contents), inputs().tokens
            whole = is_whole(self._processing.model, inputs().by_name)
            config = self._processing.model.config
            places, keys = content_places(config, tokens, infos)
            release = pin.pop_all().close
        return Prepared(
            tokens,
            PromptMedia(
                infos,
                release,
                places=places,
                contents=keys,
                inputs=lambda: inputs().by_name,
                whole=whole,
            ),
        )


def trial_prompt(processing: Processing) -> Prepared | None:
    """Return a prompt with an image by which a model is tried; None if it can't be shown one."""
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": "What is it?"}]
    preparer = InputsPreparer(processing, UNRESTRICTED, max_bytes=1 << 30)
    try:
        return preparer.prepare(MediaPrompt([{"role": "user", "content": parts}], VideoParams.of()))
    except (MediaError, ChatTemplateError) as error:
        logger.info("the model is not tried with an image: %s", error)
        return None
