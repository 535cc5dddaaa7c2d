"""`OpenAI`: rows of OpenAI's batch format, an envelope with the request in its `body`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.requests import GenerationRequest
from jobs.sources.dialect import FIELDS, Dialect, carried, written_out
from vllm_mlx.errors import InvalidRequestError, shown
from vllm_mlx.foreign import FOREIGN, OF_OPENAI, asks_for_nothing

_ENVELOPE = ("custom_id", "method", "url", "body")
_ENDPOINTS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}

# What reaches the request, and what only goes to the dataset. The model is the worker's to choose.
_REQUEST_FIELDS = FIELDS - {"id"}
_CARRIED_FIELDS = _REQUEST_FIELDS | OF_OPENAI.keys()

# Values that ask for nothing. (To Python 0 is False, but `logprobs: 0` is a request.)
_NO_OPS: dict[str, Any] = {
    "logprobs": False,
    "top_logprobs": 0,
}


class OpenAI(Dialect):
    """The dialect of OpenAI-batch JSONL."""

    id_key = "custom_id"

    def request(self, data: Mapping[str, Any]) -> GenerationRequest:
        """Return the request of a row.

        Raises:
            InvalidRequestError: also where the envelope is wrong, or the body asks for something
                unsupported.
        """
        source = _source_of(data)
        body = data.get("body")
        if not isinstance(body, dict):
            raise InvalidRequestError(f"body={shown(body)}: should be an object")
        given = _meaningful(body)
        if unsupported := [name for name in given if name not in _CARRIED_FIELDS]:
            complaints = (_complaint(name, given[name]) for name in unsupported)
            raise InvalidRequestError("; ".join(complaints))
        if source not in given:
            raise InvalidRequestError(f"body.{source}: missing; {data['url']} needs it")
        fields = {key: value for key, value in given.items() if key in _REQUEST_FIELDS}
        if (most := given.get("max_completion_tokens")) is not None:
            if "max_tokens" in given:
                both = "body.max_tokens and body.max_completion_tokens"
                raise InvalidRequestError(f"give one of {both}")
            fields["max_tokens"] = most
        fields = written_out(fields) | _logprobs(source, given) | {"id": data.get("custom_id")}
        return GenerationRequest.parse(fields)

    def columns(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the supported fields of the body."""
        given = _meaningful(self.fields(data))
        return carried({key: value for key, value in given.items() if key in _CARRIED_FIELDS})

    def fields(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        body = data.get("body")
        return body if isinstance(body, dict) else {}


def _source_of(data: Mapping[str, Any]) -> str:
    """Check the envelope; return the body field its endpoint reads."""
    if unknown := data.keys() - set(_ENVELOPE):
        names = ", ".join(sorted(unknown))
        raise InvalidRequestError(f"{names}: unknown field; allowed are {', '.join(_ENVELOPE)}")
    if (method := data.get("method", "POST")) != "POST":
        raise InvalidRequestError(f"method={shown(method)}: should be 'POST'")
    url = data.get("url")
    if not isinstance(url, str) or url not in _ENDPOINTS:
        raise InvalidRequestError(f"url={shown(url)}: should be {' or '.join(_ENDPOINTS)}")
    return _ENDPOINTS[url]


def _meaningful(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body without fields whose value asks for nothing."""
    return {k: v for k, v in body.items() if not _is_no_op(k, v)}


def _is_no_op(name: str, value: Any) -> bool:
    neutral = [_NO_OPS[name]] if name in _NO_OPS else []
    if name in FIELDS:  # what of these is empty is for the request to judge
        return value is None or bool(neutral and asks_for_nothing(value, neutral))
    return FOREIGN[name].is_neutral(value) if name in FOREIGN else asks_for_nothing(value, neutral)


def _complaint(name: str, value: Any) -> str:
    refusal = f"not supported; {FOREIGN[name].advice}" if name in FOREIGN else "not supported"
    return f"body.{name}={shown(value)}: {refusal}"


def _logprobs(source: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `logprobs: 2` of a completion, or of a chat's `logprobs: true, top_logprobs: 2`."""
    wanted, top = given.get("logprobs"), given.get("top_logprobs")
    if top is not None and (source == "prompt" or wanted is None):
        raise InvalidRequestError(
            f"body.top_logprobs={shown(top)}: goes with body.logprobs=True of a chat"
        )
    if source == "prompt" or wanted is None:
        return {}
    if wanted is not True:
        raise InvalidRequestError(
            f"body.logprobs={shown(wanted)}: should be True or False in a chat, and "
            "body.top_logprobs how many"
        )
    return {"logprobs": 0 if top is None else top}
