"""A dataset as the output file and the error file of one of OpenAI's batches."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from jobs.export.finished import Finished, Row
from jobs.sources import Format
from jobs.sources.ids import refused_id

_LEAST_LOGPROB = -9999.0  # OpenAI's word for next to never
# A text that was cut for repeating itself has not ended by itself.
_FINISH_REASONS = {"repetition": "length"}


def answered(finished: Finished) -> Iterator[bytes]:
    """Yield the line of each request of which all samples were answered."""
    for rows in finished.requests():
        if not any(map(_error, rows)):
            body = _completion(finished, rows)
            request_id = f"req_{body['id'].partition('-')[2]}"
            response = {"status_code": 200, "request_id": request_id, "body": body}
            yield _line(finished, rows[0], response=response, error=None)


def failed(finished: Finished) -> Iterator[bytes]:
    """Yield the line of each request of which a sample ended in an error: the first one's."""
    for rows in finished.requests():
        if error := next(filter(None, map(_error, rows)), None):
            yield _line(finished, rows[0], response=None, error=error)


def _line(finished: Finished, row: Row, **said: Any) -> bytes:
    # Of several requests with one id, the dataset names all but the first by their positions.
    custom_id = refused_id(row["error"] or "") or row["id"]
    line = {"id": f"batch_req_{_name(finished, row)}", "custom_id": custom_id, **said}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _name(finished: Finished, row: Row) -> str:
    return f"{finished.manifest['run_id'].removeprefix('run-')}{row['row']:08d}"


def _error(row: Row) -> Mapping[str, str] | None:
    if row["error_type"] is None:
        return None
    return {"code": row["error_type"], "message": row["error"] or ""}


def _completion(finished: Finished, rows: list[Row]) -> dict[str, Any]:
    """Return the body of a response: one prompt, a choice a sample."""
    first = rows[0]
    is_chat = _is_chat(finished, first)
    created = datetime.fromisoformat(finished.manifest["created_at"])
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{_name(finished, first)}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(created.timestamp()),
        "model": first["model"],
        "choices": [(_choice if is_chat else _text_choice)(row) for row in rows],
        "usage": _usage(rows),
        "system_fingerprint": None,
    }


def _is_chat(finished: Finished, row: Row) -> bool:
    """Whether messages were answered, and not a prompt continued as it stands."""
    if finished.given(row, "messages") is not None or row["media"]:
        return True
    is_openai = finished.manifest["input"]["format"] == Format.OPENAI
    return bool(finished.manifest["chat"]) and not is_openai


def _choice(row: Row) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": row["text"], "refusal": None}
    if row["reasoning"] is not None:
        message["reasoning_content"] = row["reasoning"]
    if row["tool_calls"]:
        message |= {"content": row["text"] or None, "tool_calls": row["tool_calls"]}
    logprobs = None
    if row["logprobs"] is not None:
        logprobs = {"content": [_token(each) for each in row["logprobs"]], "refusal": None}
    return {
        "index": row["sample_index"],
        "message": message,
        "logprobs": logprobs,
        "finish_reason": _finish_reason(row),
    }


def _text_choice(row: Row) -> dict[str, Any]:
    tokens = row["logprobs"]
    return {
        "index": row["sample_index"],
        "text": row["text"],
        "logprobs": None if tokens is None else _text_logprobs(tokens),
        "finish_reason": _finish_reason(row),
    }


def _finish_reason(row: Row) -> str:
    reason: str = row["finish_reason"]
    if reason == "stop" and row["tool_calls"]:
        return "tool_calls"
    return _FINISH_REASONS.get(reason, reason)


def _token(entry: Mapping[str, Any]) -> dict[str, Any]:
    top = [_likely(each) for each in entry["top"]]
    return {**_likely(entry), "top_logprobs": top}


def _likely(entry: Mapping[str, Any]) -> dict[str, Any]:
    token: str = entry["token"]
    whole = "\ufffd" not in token  # else its bytes are not known
    return {
        "token": token,
        "logprob": _logprob(entry),
        "bytes": list(token.encode()) if whole else None,
    }


def _text_logprobs(tokens: list[Mapping[str, Any]]) -> dict[str, Any]:
    offsets, length = [], 0
    for entry in tokens:
        offsets.append(length)
        length += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in tokens],
        "token_logprobs": [_logprob(entry) for entry in tokens],
        "top_logprobs": [{top["token"]: _logprob(top) for top in e["top"]} for e in tokens],
        "text_offset": offsets,
    }


def _logprob(entry: Mapping[str, Any]) -> float:
    logprob: float = entry["logprob"]
    return logprob if math.isfinite(logprob) else _LEAST_LOGPROB


def _usage(rows: list[Row]) -> dict[str, Any]:
    prompt, completion = rows[0]["prompt_tokens"], sum(row["completion_tokens"] for row in rows)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": rows[0]["cached_tokens"]},
        "completion_tokens_details": {
            "reasoning_tokens": sum(row["reasoning_tokens"] or 0 for row in rows)
        },
    }
