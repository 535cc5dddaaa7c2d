"""What a message of a chat says: a string, or parts of text, images and videos in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

MediaKind = Literal["image", "video"]

MEDIA_PARTS = {"image_url": "image", "image": "image", "video_url": "video", "video": "video"}
"""The content parts that hold a medium, and what it is."""

Part: TypeAlias = dict[str, Any]
"""`{"type": "text", "text": …}`, `{"type": "image", "image": …}` or the same with "video"."""

Content: TypeAlias = str | list[Part]


_MEDIA_KEYS = {*MEDIA_PARTS, "images", "videos"}
_AS_IMAGE = '{"type": "image", "image": PATH_OR_URL}'
_OTHERWISE = f"a part is {_AS_IMAGE}, or of OpenAI's form, and nothing else"
_FRAMES = "which frames of a video are used, say video_fps and video_max_frames beside the messages"
_PIXELS = "leave it out; a model takes each image in the size that its own processor makes of it"
_HINTS = {
    **dict.fromkeys(
        ("fps", "nframes", "num_frames", "min_frames", "max_frames", "sample_fps"), _FRAMES
    ),
    **dict.fromkeys(("video_start", "video_end"), "cut the video first; all of it is looked at"),
    **dict.fromkeys(
        (
            *("min_pixels", "max_pixels", "total_pixels"),
            *("resized_height", "resized_width", "height", "width"),
        ),
        _PIXELS,
    ),
}
"""What to do with keys that other systems know."""
_DETAILS = ("auto", "low", "high")  # a model takes each image in the one way it knows
_NO_SOURCES = (type(None), str, Mapping, bool, int, float)


def content_of(content: Any, *, any_source: bool = False) -> Content:
    """Return content of OpenAI's or Qwen's form in one form; parts of text alone are joined.

    Args:
        any_source: media may be more than strings: images, arrays, frames.

    Raises:
        ValueError: it is no content, or a part of it is not supported.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError("should be a valid string, or a list of parts")
    parts = [_part(part, any_source) for part in content]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def media_of(contents: Iterable[Content | None]) -> list[Part]:
    """Return the parts that hold an image or a video."""
    lists = [content for content in contents if isinstance(content, list)]
    return [part for parts in lists for part in parts if part["type"] != "text"]


def with_media(content: Content, change: Callable[[Part], Iterable[Part]]) -> Content:
    """Return the content with other parts in place of each image and video."""
    if not isinstance(content, list):
        return content
    return [new for part in content for new in ([part] if part["type"] == "text" else change(part))]


def with_sources(content: Content, change: Callable[[str], str]) -> Content:
    """Return the content with the sources of its images and videos changed."""
    return with_media(content, lambda part: [{**part, part["type"]: change(part[part["type"]])}])


def placed(messages: Any, media: Mapping[MediaKind, Any]) -> Any:
    """Return messages whose parts that only say `{"type": "image"}` hold the media, in order.

    So do datasets of Hugging Face, with the images beside the messages.

    Args:
        media: the images and the videos; a kind that has none is left out.

    Raises:
        ValueError: there are not as many places as media.
    """
    left = {kind: list(sources) for kind, sources in media.items()}

    def filled(part: Any) -> Any:
        kind: Any = part.get("type") if isinstance(part, Mapping) else None
        given = [each for key, each in part.items() if key != "type"] if kind in left else [0]
        if any(each is not None for each in given):
            return part
        places[kind] = places.get(kind, 0) + 1
        return {"type": kind, kind: left[kind].pop(0)} if left[kind] else part

    places: dict[Any, int] = {}
    made = [
        {**each, "content": list(map(filled, each["content"]))}
        if isinstance(each, Mapping) and isinstance(each.get("content"), list)
        else each
        for each in messages
    ]
    for kind, sources in media.items():
        if places and places.get(kind, 0) != len(sources):
            raise ValueError(
                f"{len(sources)} {kind}s, and {places.get(kind, 0)} parts of messages that say "
                f'{{"type": "{kind}"}}: there should be as many'
            )
    return made if places else messages


def _part(part: Any, any_source: bool) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return {"type": "text", "text": _text_of(part)}
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return {"type": "text", "text": part["refusal"]}
    if not isinstance(kind, str) or kind not in MEDIA_PARTS:
        allowed = ", ".join(["text", *MEDIA_PARTS])
        raise ValueError(f"a content part of type {kind!r}: allowed are {allowed}")
    source = _source_of(part, kind)
    is_source = isinstance(source, str) and source != ""
    if not is_source and (not any_source or isinstance(source, _NO_SOURCES)):
        raise ValueError(
            f"a part of type {kind!r} should hold a path, URL or data URL as a string under "
            f"{kind!r} or 'url'"
        )
    medium = MEDIA_PARTS[kind]
    return {"type": medium, medium: source}


def refuse_media_beside(given: Mapping[str, Any], where: str) -> None:
    """Refuse a medium beside the parts, which would be left out in silence.

    Raises:
        ValueError: there is one.
    """
    found = [key for key in sorted(_MEDIA_KEYS & given.keys()) if given[key] is not None]
    if found:
        raise ValueError(
            f"{', '.join(map(repr, found))} in {where}: media are parts of a message's content, "
            'such as {"type": "image", "image": …}'
        )


def _text_of(part: Mapping[str, Any]) -> str:
    refuse_media_beside(part, "a part of type 'text'")
    if not isinstance(part.get("text"), str):
        raise ValueError("a text part should hold its text as a string under 'text'")
    return str(part["text"])


def _source_of(part: Mapping[str, Any], kind: str) -> Any:
    """Return the value under the part's type or `url`, or under `url` in an object there."""
    given = {key: value for key, value in part.items() if value is not None and key != "type"}
    if "source" in given:
        raise ValueError(
            f"'source' in a part of type {kind!r}: write Anthropic's images as {_AS_IMAGE}, or "
            "with a data URL: data:image/png;base64,…"
        )
    source = given.pop(kind if kind in given else "url", None)
    _refuse_unknown(given, f"a part of type {kind!r}")
    if isinstance(source, Mapping):
        given = {key: value for key, value in source.items() if value is not None}
        source = given.pop("url", None)
        _refuse_unknown(given, f"{kind!r}")
    return source


def _refuse_unknown(given: dict[str, Any], where: str) -> None:
    """Refuse what would be ignored, such as a video's own `fps`; the rest are hints."""
    given.pop("cache_control", None)
    if (detail := given.pop("detail", "auto")) not in _DETAILS:
        raise ValueError(f"detail={detail!r} in {where}: should be {', '.join(_DETAILS)}")
    if given:
        names = ", ".join(map(repr, given))
        told = (hint for key, hint in _HINTS.items() if key in given)
        raise ValueError(f"unknown key {names} in {where}; {next(told, _OTHERWISE)}")
