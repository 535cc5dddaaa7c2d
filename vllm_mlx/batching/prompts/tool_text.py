"""Tools, calls and results as text, for chat templates that know none.

The form is that of Qwen and Hermes, which most models with tools were trained on; mlx-lm's parser
`json_tools` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlx_lm.tool_parsers.json_tools import tool_call_end, tool_call_start

from vllm_mlx.batching.prompts.prompt import Messages

_INTRODUCTION = f"""\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
%s
</tools>

For each function call, return a json object with function name and arguments within \
{tool_call_start}{tool_call_end} XML tags:
{tool_call_start}
{{"name": <function-name>, "arguments": <args-json-object>}}
{tool_call_end}"""


def with_tools(messages: Messages, tools: Sequence[Any]) -> Messages:
    """Return messages whose first, the system's, describes the tools."""
    text = _INTRODUCTION.replace("%s", "\n".join(map(to_json, tools)))
    first, *others = messages
    if first["role"] not in ("system", "developer"):
        return [{"role": "system", "content": text}, *messages]
    content = first["content"]
    if isinstance(content, str):
        return [{**first, "content": f"{content}\n\n{text}"}, *others]
    return [{**first, "content": [*content, {"type": "text", "text": f"\n\n{text}"}]}, *others]


def calls_as_text(messages: Messages) -> Iterator[Mapping[str, Any]]:
    """Write calls and results as text, in the form that most models with tools were trained on."""
    results: list[Any] = []
    for message in messages:
        if message["role"] == "tool":
            results.append(message["content"])
            continue
        if results:
            yield _results(results)
            results = []
        if calls := message.get("tool_calls"):
            texts = [message["content"]] if message["content"] else []
            texts += [
                f"{tool_call_start}\n{to_json(call['function'])}\n{tool_call_end}" for call in calls
            ]
            message = {**message, "content": "\n".join(texts)}
            del message["tool_calls"]
        yield message
    if results:
        yield _results(results)


def _results(results: list[Any]) -> Mapping[str, Any]:
    if all(isinstance(each, str) for each in results):
        texts = (f"<tool_response>\n{each}\n</tool_response>" for each in results)
        return {"role": "user", "content": "\n".join(texts)}
    parts: list[Any] = []
    for each in results:
        own = each if isinstance(each, list) else [{"type": "text", "text": each}]
        parts += [{"type": "text", "text": "<tool_response>\n"}, *own]
        parts.append({"type": "text", "text": "\n</tool_response>"})
    return {"role": "user", "content": parts}


def to_json(value: Any) -> str:
    """Return compact JSON in which letters are letters."""
    return json.dumps(value, ensure_ascii=False)
