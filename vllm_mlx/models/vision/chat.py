"""`Chat`: messages as text, in the form that the model's own template and processor expect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlx_vlm.prompt_utils import MODEL_CONFIG, MessageFormat, apply_chat_template, get_chat_template

from vllm_mlx.batching.loaded_model import template_errors
from vllm_mlx.batching.prompts.prompt import Messages
from vllm_mlx.content import Part, media_of, with_media
from vllm_mlx.errors import ChatTemplateError, MediaError
from vllm_mlx.models.vision.pixels import Pixels

_PLACED_BY_PROCESSOR = (MessageFormat.PROMPT_ONLY, MessageFormat.TEXT_ONLY)


class Chat:
    """Writes prompts of an architecture that mlx-vlm embeds, as mlx-vlm writes them.

    Args:
        config, processor: mlx-vlm's for the model.
        videos_as_frames: a video stands in the text as so many images.
    """

    def __init__(self, config: Any, processor: Any, *, videos_as_frames: bool) -> None:
        self._config = config
        self._format = MODEL_CONFIG.get(config.model_type.lower())
        self._processor = processor
        self._videos_as_frames = videos_as_frames

    def text(
        self, messages: Messages, arguments: Mapping[str, Any], media: Sequence[Pixels] = ()
    ) -> str:
        """Return the prompt of messages.

        Args:
            arguments: what the template takes beside them.
            media: those of the messages, in order.

        Raises:
            ChatTemplateError: the template rejects the messages.
            MediaError: it has no place for the media, or the messages have places of their own.
        """
        if not media:
            return self._written(messages, arguments)
        left = iter(media)
        shown = [self._shown(message, left) for message in messages]
        self._refuse_marks(shown)
        text = self._written(shown, arguments)
        self._check_places(text, shown, arguments)
        return text

    def places_videos(self) -> bool:
        """Whether the template writes something where a video stands."""
        text = {"type": "text", "text": "?"}
        try:
            shown, plain = (
                self._written([{"role": "user", "content": content}], {})
                for content in ([{"type": "video"}, text], [text])
            )
        except ChatTemplateError:  # it wants other messages; what it writes of them is checked
            return True
        return shown != plain

    def _shown(self, message: Mapping[str, Any], media: Iterator[Pixels]) -> dict[str, Any]:
        """The message with its media by their type only."""

        def shown(part: Part) -> list[Part]:
            if self._videos_as_frames:
                return [{"type": "image"}] * len(next(media).frames)
            return [{"type": part["type"]}]

        return {**message, "content": with_media(message["content"], shown)}

    def _written(self, messages: Messages, arguments: Mapping[str, Any]) -> str:
        given: Any = list(messages)
        options = {"add_generation_prompt": True, **arguments}
        count, has_videos = _count(messages, "image"), bool(_count(messages, "video"))
        with template_errors():
            if has_videos or (count and self._format is None):
                made = get_chat_template(self._processor, given, **options)
            else:
                made = apply_chat_template(
                    self._processor, self._config, given, num_images=count, **options
                )
        text = str(made["content"]) if isinstance(made, dict) else str(made)
        if "continue_final_message" in arguments:
            _check_continued(text, messages)
        return text

    def _refuse_marks(self, messages: Messages) -> None:
        # The texts that stand for media, as far as the processor names them.
        names = ("image_token", "video_token", "boi_token")
        owners = (self._processor, getattr(self._processor, "tokenizer", None))
        found = {getattr(owner, name, None) for owner in owners for name in names}
        marks = {mark for mark in found if isinstance(mark, str) and mark} or {"<image>"}
        for message in messages:
            content = message["content"]
            parts = [{"text": content}] if isinstance(content, str) else content
            for mark in marks:
                if any(mark in part.get("text", "") for part in parts):
                    raise MediaError(
                        f"the prompt's text has the placeholder {mark}: leave it out, it is "
                        "written where the media stand"
                    )

    def _check_places(self, text: str, messages: Messages, arguments: Mapping[str, Any]) -> None:
        if self._format in _PLACED_BY_PROCESSOR:
            return
        if text == self._written([_without_media(message) for message in messages], arguments):
            raise MediaError("the model's chat template has no place for images and videos")
        for name in ("image", "video"):
            mark, wanted = getattr(self._processor, f"{name}_token", None), _count(messages, name)
            found = text.count(mark) if isinstance(mark, str) and mark else 0
            if found and found != wanted:
                raise MediaError(
                    f"the chat template writes {found} places {mark} for {wanted} {name}s"
                )


def _check_continued(text: str, messages: Messages) -> None:
    # mlx-vlm writes some models' prompts itself, and knows no such argument then.
    last = messages[-1]["content"]
    said = last if isinstance(last, str) else "".join(part.get("text", "") for part in last)
    if not text.rstrip().endswith(said.strip()):
        raise ChatTemplateError(
            "continue_final_message: the model's chat template does not end with the message that "
            "is to be gone on with; leave it out"
        )


def _count(messages: Messages, kind: str) -> int:
    media = media_of(message.get("content") for message in messages)
    return sum(part["type"] == kind for part in media)


def _without_media(message: Mapping[str, Any]) -> dict[str, Any]:
    return {**message, "content": with_media(message["content"], lambda _: [])}
