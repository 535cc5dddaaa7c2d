"""`VisionPreparer`: from messages with images and videos to tokens and patches, on any thread."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from vllm_mlx.batching.prompts.prompt import MediaPrompt, Prepared
from vllm_mlx.batching.prompts.prompt_media import Medium, PromptMedia
from vllm_mlx.errors import MediaError
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.media.store import MediaStore
from vllm_mlx.models.vision.patches import Patches, Processed
from vllm_mlx.models.vision.placeholders import Expander
from vllm_mlx.models.vision.positions import rope_positions
from vllm_mlx.models.vision.reading import MediaReader, infos_of


class VisionPreparer:
    """`Preparer` of a model that runs in slots; reads each medium once.

    Args:
        processor, config: mlx-vlm's for the model.
        policy: what may be read for a prompt.
        max_bytes: most of patches that are held for prompts to come.
    """

    def __init__(self, processor: Any, config: Any, policy: MediaPolicy, *, max_bytes: int) -> None:
        self._store: MediaStore[Processed] = MediaStore(max_bytes)
        self._reader = MediaReader(Patches(processor), self._store, policy)
        self._expander = Expander(processor, config)

    def wait_for_room(self) -> None:
        self._store.wait_for_room()

    def close(self) -> None:
        self._store.close()

    def prepare(self, prompt: MediaPrompt) -> Prepared:
        """Read the media of a prompt and write its tokens.

        Raises:
            MediaError: a medium can't be read or may not be, or its placeholders don't fit.
            ChatTemplateError: the template rejects the messages.
        """
        with ExitStack() as pins:
            contents = self._reader.read_all(prompt, pins)
            media = [_medium(get) for get in contents]
            tokens, places, blocks = self._expander.expand(prompt, media)
            if not media:
                return Prepared(tokens)
            if places[-1][-1] == len(tokens) - 1:
                raise MediaError(
                    "the prompt ends with an image or a video: its template asks nothing"
                )
            positions, infos = rope_positions(len(tokens), blocks), infos_of(contents)
            release = pins.pop_all().close
        keys = tuple(medium.key for medium in media)
        seen = PromptMedia(infos, release, tuple(media), tuple(places), keys, positions)
        return Prepared(tokens, seen)


def _medium(get: Callable[[], Processed]) -> Medium:
    processed = get()
    return Medium(processed.grid, processed.info, lambda: get().patches)
