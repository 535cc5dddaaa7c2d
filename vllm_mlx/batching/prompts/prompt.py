"""What a caller may ask: a plain prompt, or the messages of a chat, with images and videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

from vllm_mlx.batching.prompts.prompt_media import PromptMedia
from vllm_mlx.content import MEDIA_PARTS, Part, media_of, refuse_media_beside
from vllm_mlx.errors import InvalidRequestError, shown
from vllm_mlx.json_record import half_text
from vllm_mlx.messages import messages_of
from vllm_mlx.sampling_options import MoreOptions, SamplingOptions
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.video_params import VideoOptions, VideoParams

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class MediaPrompt:
    """Messages with images and videos in them, and which frames of these are looked at.

    Attributes:
        messages: content is text, or a list of parts: `{"type": "text", "text": …}`,
            `{"type": "image", "image": source}` and `{"type": "video", "video": source}`.
        arguments: what the chat template takes beside them.
    """

    messages: Messages
    video: VideoParams
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def media(self) -> list[Part]:
        """The parts that hold an image or a video, in order."""
        return _media_of(self.messages)


Prompt: TypeAlias = str | Messages | MediaPrompt


class Prepared(NamedTuple):
    """A prompt as the model takes it."""

    tokens: list[int]
    media: PromptMedia | None = None

    def shared_by(self, sharers: int) -> Prepared:
        """Return a copy whose media `sharers` more prompts will use."""
        media = replace(self.media, sharers=sharers) if self.media else None
        return Prepared(self.tokens, media)

    def media_of_samples(self, count: int) -> Sequence[PromptMedia | None]:
        """Return the media, as often as the prompt is answered."""
        return self.media.for_samples(count) if self.media else [None] * count


class Options(SamplingOptions, VideoOptions, total=False):
    """The keyword arguments of calls that take media: see `SamplingParams` and `VideoParams`."""


class MoreMediaOptions(MoreOptions, VideoOptions, total=False):
    """`Options` of calls that have `max_tokens` as an argument of its own."""


def split_options(options: SamplingOptions | Options) -> tuple[SamplingParams, VideoParams | None]:
    """Return the parameters of sampling, and those of videos if any was given.

    Raises:
        InvalidRequestError: naming each field, what was given and what is allowed.
    """
    if (n := dict(options).get("n")) is not None:
        raise InvalidRequestError(
            f"n={shown(n)}: this call gives one answer; generate_samples() gives n of them"
        )
    given = {name: value for name, value in options.items() if name in VideoParams.model_fields}
    rest = {name: value for name, value in options.items() if name not in given}
    return SamplingParams.of(**rest), VideoParams.of(**given) if given else None


def user_prompt(prompt: object, images: Any, videos: Any, video: VideoParams | None) -> Prompt:
    """Return a user's text after images and videos; without any, the plain prompt.

    Args:
        images, videos: a list of them, or just one; see `MLXMultimodalLM`.

    Raises:
        InvalidRequestError: one of them is something else.
    """
    if not isinstance(prompt, str):
        given = type(prompt).__name__
        several = "; generate() takes a list of prompts" if isinstance(prompt, list | tuple) else ""
        raise InvalidRequestError(
            f"prompt is a {given}: should be a string; chat() takes messages{several}"
        )
    if not prompt:
        raise InvalidRequestError("the prompt is empty: give at least one character")
    parts = [*_parts("image", images), *_parts("video", videos)]
    if not parts:
        _refuse_frames_of_nothing(video)
        return prompt
    content = [*parts, {"type": "text", "text": prompt}]
    return chat_prompt([{"role": "user", "content": content}], video)


def chat_prompt(messages: object, video: VideoParams | None = None) -> Prompt:
    """Return `messages`, as a `MediaPrompt` if there are images or videos in them.

    Raises:
        InvalidRequestError: they are something else.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        given = type(messages).__name__
        raise InvalidRequestError(f"messages is a {given}: should be a list of messages")
    if messages and isinstance(messages[0], list | tuple):
        raise InvalidRequestError(
            "messages is a list of chats: should be one; chat() takes several, and no stream does"
        )
    for at, message in enumerate(messages):
        _refuse_media_beside(at, message)
    _require_text(messages, "messages")
    found = messages_of(messages)
    if not _media_of(found):
        _refuse_frames_of_nothing(video)
        return found
    return MediaPrompt(found, video or VideoParams.of())


def require_text(prompt: Prompt) -> None:
    """Make sure that the strings of a prompt are text, but for the names of its media.

    Raises:
        InvalidRequestError: one holds half a surrogate pair.
    """
    said = prompt.messages if isinstance(prompt, MediaPrompt) else prompt
    _require_text(said, "prompt" if isinstance(said, str) else "messages")


def _require_text(value: Any, where: str) -> None:
    if refusal := half_text(value, where, tuple(MEDIA_PARTS)):
        raise InvalidRequestError(refusal)


def _media_of(messages: Messages) -> list[Part]:
    return media_of(message.get("content") for message in messages)


def _refuse_media_beside(at: int, message: object) -> None:
    if isinstance(message, Mapping):
        try:
            refuse_media_beside(message, "a message")
        except ValueError as error:
            raise InvalidRequestError(f"messages[{at}]: {error}") from None


def _parts(kind: str, sources: Any) -> list[Part]:
    """Return the parts of a list of images or videos, or of just one."""
    if sources is None:
        return []
    many = sources if isinstance(sources, list | tuple) else [sources]
    if any(isinstance(e, int | float | None) or (isinstance(e, str) and not e) for e in many):
        raise InvalidRequestError(
            f"{kind}s={shown(sources)}: should be one or a list of them, each a path, a URL, "
            "bytes, a PIL image or an array"
        )
    return [{"type": kind, kind: source} for source in many]


def _refuse_frames_of_nothing(video: VideoParams | None) -> None:
    if video and video.model_fields_set:
        names = ", ".join(sorted(video.model_fields_set))
        raise InvalidRequestError(f"{names}: given without images or videos")
