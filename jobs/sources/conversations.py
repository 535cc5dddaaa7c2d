"""ShareGPT's `conversations` as the messages they stand for."""

from __future__ import annotations

from typing import Any

from vllm_mlx.errors import InvalidRequestError, shown

CONVERSATIONS = "conversations"
"""The column that is taken for `messages` where a row has neither these nor a prompt."""

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
}


def messages_of_turns(turns: Any) -> list[dict[str, Any]]:
    """Return the messages of a list of turns, `{"from": "human", "value": "Hi"}`.

    Raises:
        InvalidRequestError: it is no such list, or a turn is by an unknown speaker.
    """
    if not isinstance(turns, list):
        raise InvalidRequestError(f"{CONVERSATIONS}={shown(turns)}: should be a list of turns")
    return [_message(turn, f"{CONVERSATIONS}[{at}]") for at, turn in enumerate(turns)]


def _message(turn: Any, where: str) -> dict[str, Any]:
    if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
        raise InvalidRequestError(
            f'{where}={shown(turn)}: should be a turn such as {{"from": "human", "value": "Hi"}}'
        )
    speaker = turn["from"]
    if not isinstance(speaker, str) or speaker not in _ROLES:
        raise InvalidRequestError(
            f"{where}.from={shown(speaker)}: should be one of {', '.join(_ROLES)}"
        )
    return {"role": _ROLES[speaker], "content": turn["value"]}
