"""Calls of tools in a model's answer: found and parsed, so that the rest is its text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tool_parsers.json_tools import parse_tool_call, tool_call_end, tool_call_start

from vllm_mlx.batching.prompts.chat_form import ChatForm
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.outputs import CalledFunction, ToolCall
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.tools import as_shown, is_forced

Parse = Callable[[str, Any], Any]
"""mlx-lm's: the text between the markers, and the tools; returns one call or several."""


class Calls(Protocol):
    """How calls stand in an answer."""

    def split(self, text: str) -> tuple[str, list[ToolCall]]:
        """Return a whole answer's text without its calls, and these; ids are empty."""

    def certain(self, text: str) -> int:
        """Return how many characters of an answer's beginning are of no call, whatever follows."""


@dataclass(frozen=True, slots=True)
class MarkedCalls:
    """Calls between markers, parsed by mlx-lm; a section that can't be parsed stays text.

    Attributes:
        end: empty where a section goes on to the end of the answer.
    """

    start: str
    end: str
    parse: Parse
    tools: Sequence[Any]

    def split(self, text: str) -> tuple[str, list[ToolCall]]:
        said, found = "", []
        for before, section, whole in self._sections(text):
            calls = self._parsed(section)
            said += before + ("" if calls else whole)
            found += calls
        return (said.rstrip() if found else text), found

    def certain(self, text: str) -> int:
        end = text.find(self.start)
        if end < 0:
            sizes = range(min(len(self.start) - 1, len(text)), 0, -1)
            held = next((size for size in sizes if self.start.startswith(text[-size:])), 0)
            end = len(text) - held
        return len(text[:end].rstrip())

    def _sections(self, text: str) -> Iterator[tuple[str, str, str]]:
        """Yield the text before each section, what is in it, and it with its markers."""
        while text:
            before, start, rest = text.partition(self.start)
            section, end, text = rest.partition(self.end) if self.end else (rest, "", "")
            yield before, section, start + section + end

    def _parsed(self, section: str) -> list[ToolCall]:
        if not section:
            return []
        try:
            made = self.parse(section, self.tools)
            return [_call(each) for each in (made if isinstance(made, list) else [made])]
        except Exception:  # the model may have written anything, and parsers raise of all kinds
            return []


@dataclass(frozen=True, slots=True)
class BareCalls:
    """An answer that is nothing but calls, in JSON: Llama's, and one that was held to be so.

    Attributes:
        names: of the functions; JSON that calls another one is text.
    """

    names: frozenset[str]

    def split(self, text: str) -> tuple[str, list[ToolCall]]:
        try:
            calls = [_call(each) for each in _values(text.removeprefix("<|python_tag|>"))]
        except (ValueError, LookupError, TypeError):
            return text, []
        if any(call.function.name not in self.names for call in calls):
            return text, []
        return "", calls

    def certain(self, text: str) -> int:
        """An answer that begins like JSON may be a call to its end."""
        begun = text.lstrip()
        return len(text) if begun and begun[0] not in "[{<" else 0


def calls_of(
    params: SamplingParams, form: ChatForm, tokenizer: TokenizerWrapper, name: str
) -> Calls | None:
    """Return how calls stand in an answer of a model; None where it calls nothing.

    Args:
        name: the model's, for errors.

    Raises:
        InvalidRequestError: no parser knows the model's own form.
    """
    if not (tools := as_shown(params.tools, params.tool_choice)):
        return None
    names = frozenset(tool["function"]["name"] for tool in tools)
    if is_forced(params.tool_choice):
        return BareCalls(names)
    if not form.takes_tools:
        return MarkedCalls(tool_call_start, tool_call_end, parse_tool_call, tools)
    if tokenizer.has_tool_calling:
        start, end = tokenizer.tool_call_start, tokenizer.tool_call_end
        return MarkedCalls(start, end, tokenizer.tool_parser, tools)
    if form.calls_in_json:
        return BareCalls(names)
    raise InvalidRequestError(
        f"tools: {name} writes calls in a form that mlx-lm has no parser for; with tool_choice "
        "'required' or a function's name they are JSON, which any model writes"
    )


def with_ids(calls: Sequence[ToolCall], prompt: Sequence[int]) -> tuple[ToolCall, ...]:
    """Return calls with ids, which are the same for the same answer to the same prompt."""
    digest = sha256(repr((prompt, [call.function for call in calls])).encode()).hexdigest()
    return tuple(
        call if call.id else ToolCall(f"call_{digest[:20]}{at:04d}", call.function)
        for at, call in enumerate(calls)
    )


def _values(text: str) -> Iterator[Any]:
    """Yield the calls of a JSON list, or of objects with semicolons between them."""
    decoder, at = json.JSONDecoder(), 0
    while rest := text[at:].lstrip(" \n\t\r;"):
        value, size = decoder.raw_decode(rest)
        at = len(text) - len(rest) + size
        yield from value if isinstance(value, list) else [value]


def _call(parsed: Any) -> ToolCall:
    """Return a call as a parser of mlx-lm's has it, or as a model writes it.

    Raises:
        ValueError, LookupError, TypeError: it is none.
    """
    name = parsed["name"]
    arguments = parsed["arguments"] if "arguments" in parsed else parsed["parameters"]
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise ValueError(f"{parsed!r} is no call")
    written = json.dumps(arguments, ensure_ascii=False)
    own = parsed.get("id")
    return ToolCall(own if isinstance(own, str) else "", CalledFunction(name, written))
