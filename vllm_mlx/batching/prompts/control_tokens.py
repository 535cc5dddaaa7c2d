"""`ControlTokens`: keeps text of messages that reads like a control token from being one.

A template writes control tokens around messages, and a tokenizer takes such text for them wherever
it stands: `<|im_end|>` in a document would end the message that quotes it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

from vllm_mlx.batching.prompts.prompt import MediaPrompt, Messages
from vllm_mlx.content import MEDIA_PARTS
from vllm_mlx.errors import ChatTemplateError, InvalidRequestError, shown

NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})

Word = Callable[[re.Match[str]], str]

# Some tokenizers do not call those special that their templates write.
_LOOKS_CONTROL = re.compile(r"<[|\uff5c].*[|\uff5c]>")
_NAMES = ("role", "type")  # of what a message or a part is
_PRIVATE = range(0xE000, 0xF900)  # characters that mean nothing


class ControlTokens:
    """The control tokens of one model.

    Args:
        name: the model's, for errors.
        tokenizer: transformers', or a wrapper of it.
        write: the text of messages by the chat template, which takes arguments beside them.
        encode: the tokens of both, control tokens wherever their text stands.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        write: Callable[[Messages, Mapping[str, Any]], str],
        encode: Callable[[Messages, Mapping[str, Any]], list[int]],
    ) -> None:
        self._name = name
        self._tokenizer = tokenizer
        self._write = write
        self._encode_whole = encode

    def found(self, messages: Messages, arguments: Mapping[str, Any] = NO_ARGUMENTS) -> str | None:
        """Return a control token that stands in their text; None if there is none."""
        texts = _texts([messages, arguments]) if self._control else ()
        return next(filter(None, map(self.found_in, texts)), None)

    def found_in(self, text: str) -> str | None:
        """Return a control token that stands in a text; None if there is none."""
        word = self._words.search(text) if self._control else None
        return word[0] if word else None

    def encode(self, messages: Messages, arguments: Mapping[str, Any] = NO_ARGUMENTS) -> list[int]:
        """Return the tokens of messages, of which only the template's own are control tokens.

        The written text is cut at those, and a piece in which a message has one is encoded as
        text. Messages without any, cut likewise, must have the tokens that they have uncut.

        Raises:
            ChatTemplateError: they have others, or the template changes the text.
        """
        text = self._write(messages, arguments)
        mark = next(chr(code) for code in _PRIVATE if chr(code) not in text)
        marks = re.compile(f"{mark}([0-9]+){mark}")
        words = list(self._control.values())

        def marked(found: re.Match[str]) -> str:
            return f"{mark}{words.index(found[0])}{mark}"

        def original(found: re.Match[str]) -> str:
            return words[int(found[1])]

        def harmless(_: re.Match[str]) -> str:
            return "x"

        cut = self._write(*self._changed(messages, arguments, marked))
        if marks.sub(original, cut) == text:
            plain, tokens = self._cut(cut, marks, harmless), self._cut(cut, marks, original)
            whole = self._encode_whole(*self._changed(messages, arguments, harmless))
            if plain and tokens and whole[-len(plain) :] == plain:
                return whole[: -len(plain)] + tokens  # processors begin with a token of their own
        raise ChatTemplateError(
            f"the text holds {self.found(messages, arguments)!r}, a control token of {self._name}, "
            "whose prompts can't be cut there: leave it out, or let it act with "
            "allow_special_tokens"
        )

    def encode_text(self, text: str) -> list[int]:
        """Return the tokens of a text in which nothing is a control token.

        Raises:
            InvalidRequestError: the tokenizer can't do without.
        """
        tokens = self._as_text(text)
        if not tokens or not self._control.keys().isdisjoint(tokens):
            raise InvalidRequestError(
                f"{shown(text)} holds {self.found_in(text)!r}, a control token of {self._name}, "
                "whose tokenizer can't read it as text: leave it out, or let it act with "
                "allow_special_tokens"
            )
        return tokens

    def refuse_beside_media(self, prompt: MediaPrompt, places: frozenset[int]) -> None:
        """Refuse control tokens in text beside images and videos, which processors encode.

        Args:
            places: tokens that stand for media; what reads them refuses those itself.

        Raises:
            ChatTemplateError: there are some.
        """
        for message in prompt.messages:
            # A template may write neighbours without a space between them.
            for found in self._words.finditer("".join(_texts([message]))) if self._control else ():
                if not any(self._control.get(place) == found[0] for place in places):
                    raise ChatTemplateError(
                        f"the text holds {found[0]!r}, a control token of {self._name}, and stands "
                        "beside images or videos: leave it out, or let it act with "
                        "allow_special_tokens"
                    )

    def _changed(
        self, messages: Messages, arguments: Mapping[str, Any], word: Word
    ) -> tuple[Messages, dict[str, Any]]:
        messages, arguments = _changed(
            [messages, arguments], lambda text: self._words.sub(word, text)
        )
        return messages, dict(arguments)

    def _cut(self, text: str, marks: re.Pattern[str], word: Word) -> list[int]:
        """Return the tokens of a text whose pieces with marks are text; none if they can't be."""
        tokens: list[int] = []
        begun = end = 0
        for start, stop in [*(found.span() for found in self._spaced.finditer(text)), (None, None)]:
            piece = text[end:start]
            if marks.search(piece):
                plain = self._as_text(marks.sub(word, piece))
                if not plain or not self._control.keys().isdisjoint(plain):
                    return []
                tokens += self._encode(text[begun:end]) + plain
                begun = len(text) if start is None else start
            end = len(text) if stop is None else stop
        return tokens + self._encode(text[begun:])

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _as_text(self, text: str) -> list[int]:
        tokens = self._plain and self._plain.encode(text, add_special_tokens=False).ids
        return list(tokens or ())

    @cached_property
    def _control(self) -> dict[int, str]:
        """The tokens' texts."""
        return control_tokens(self._tokenizer)

    @cached_property
    def _words(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, _longest_first(self._control.values()))))

    @cached_property
    def _spaced(self) -> re.Pattern[str]:
        """What the tokenizer takes for one: some swallow the space beside them."""
        added = self._tokenizer.added_tokens_decoder
        around = {
            each.content: (r"\s*" * each.lstrip, r"\s*" * each.rstrip)
            for each in map(added.get, self._control)
        }
        words = _longest_first(self._control.values())
        return re.compile("|".join(re.escape(word).join(around[word]) for word in words))

    @cached_property
    def _plain(self) -> Any:
        """The tokenizer without control tokens; None where transformers has it in Python."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        plain = copy.deepcopy(backend)
        plain.add_special_tokens(list(self._control.values()))  # those that only look like it
        plain.encode_special_tokens = True
        return plain


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """Return the texts of a tokenizer's control tokens."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {at: each.content for at, each in added.items() if _is_control(each)}


def _is_control(token: Any) -> bool:
    return bool(token.content and (token.special or _LOOKS_CONTROL.fullmatch(token.content)))


def _longest_first(words: Any) -> list[str]:
    return sorted(words, key=len, reverse=True)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping) and value.get("type") not in MEDIA_PARTS:
        for name, each in value.items():
            if name not in _NAMES:
                yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    """Return a message with all its texts changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {
            name: each if name in _NAMES else _changed(each, change) for name, each in value.items()
        }
    return [_changed(each, change) for each in value] if isinstance(value, list | tuple) else value
