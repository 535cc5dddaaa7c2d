"""`Plain`: request fields and the user's own columns side by side in one object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from jobs.requests import GenerationRequest
from jobs.sources.conversations import CONVERSATIONS, messages_of_turns
from jobs.sources.dialect import FIELDS, NUL, Dialect, carried, written_out
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.foreign import FOREIGN, refusal_of

SOURCES = frozenset({"prompt", "messages", CONVERSATIONS})
"""What a row has one of, unless a template makes its prompt."""

_TEMPLATE = "a template makes prompts of any columns: --prompt '{{ NAME }}'"


class Plain(Dialect):
    """The dialect of all files but OpenAI-batch JSONL."""

    id_key = "id"

    def request(self, data: Mapping[str, Any]) -> GenerationRequest:
        """Return the request of a row.

        Raises:
            InvalidRequestError: also where another key looks like a misspelt field, which must not
                be ignored in silence.
        """
        check_spelling(data)
        _refuse_foreign(data)
        fields = {key: value for key, value in data.items() if key in FIELDS} | source_of(data)
        request = GenerationRequest.parse(written_out(fields))
        if any(part["type"] == "video" for part in request.media):
            for key in data:
                if meant := _OF_VIDEO.get(key):
                    raise _misspelt(key, meant)
        return request

    def columns(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return all but the id."""
        return carried({key: value for key, value in data.items() if key != "id"})

    def check_columns(self, names: Sequence[str]) -> None:
        super().check_columns(names)
        if not SOURCES & set(names):
            raise InvalidRequestError(
                f"no column prompt or messages; there are {', '.join(names[:20])}; {_TEMPLATE}"
            )
        check_spelling(names)


def source_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the prompt or the messages of a row; ShareGPT's `conversations` are messages.

    Raises:
        InvalidRequestError: it has none of them.
    """
    given = {name: data[name] for name in ("prompt", "messages") if data.get(name) is not None}
    if given:
        return given
    if data.get(CONVERSATIONS) is not None:
        return {"messages": messages_of_turns(data[CONVERSATIONS])}
    names = [f"{key}: null" if value is None else key for key, value in data.items()]
    keys = ", ".join(names[:10]) or "no columns"
    hint = f"; {_TEMPLATE}" if names else ""
    raise InvalidRequestError(f"neither prompt nor messages is given; the row has {keys}{hint}")


def check_spelling(keys: Iterable[str]) -> None:
    """Raise InvalidRequestError if a key is a close misspelling of one that acts, or has a NUL."""
    for key in keys:
        if NUL in key:
            raise InvalidRequestError(
                f"{key!r}: a column's name holds a NUL, where readers of a dataset take it to "
                "end; rename it"
            )
        if key in FIELDS or key in FOREIGN or len(key) > _LONGEST:
            continue
        if meant := _meant_field(key):
            raise _misspelt(key, meant)


def _refuse_foreign(data: Mapping[str, Any]) -> None:
    """Raise InvalidRequestError if a key is a setting of another system, and asks for something."""
    for key in FOREIGN.keys() & data.keys():
        if refusal := refusal_of(key, data[key]):
            raise InvalidRequestError(f"{key}: {refusal}. Rename it if it is a column of yours")


def _misspelt(key: str, meant: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{key}: unknown field, did you mean {meant}? Rename it if it is a column of yours"
    )


def _fold(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


_FOLDED = {_fold(name): name for name in sorted(FIELDS - {"id", "prompt", "messages"})}
# Near "stop", "seed" or "top_p" lie ordinary words ("step", "speed", "top"): a short name is
# meant only when it is equal but for case, separators and a plural s; so is "min_tokens", beside
# "n_tokens".
_LONG_NAMES = [folded for folded in _FOLDED if len(folded) > 6 and folded != "mintokens"]
_KNOWN = _FOLDED | {
    "maxcompletiontokens": "max_tokens",
    "repeatpenalty": "repetition_penalty",
    "stopsequences": "stop",
    "toplogprobs": "logprobs",
}
# What other systems call settings for videos; in rows without one these are ordinary columns.
_OF_VIDEO = {"fps": "video_fps", "max_frames": "video_max_frames", "nframes": "video_max_frames"}
_LONGEST = 40


@lru_cache(maxsize=4096)
def _meant_field(key: str) -> str | None:
    folded = _fold(key)
    if name := _KNOWN.get(folded) or _KNOWN.get(folded.removesuffix("s")):
        return name
    close = get_close_matches(folded, _LONG_NAMES, n=1, cutoff=0.82)
    return _FOLDED[close[0]] if close else None
