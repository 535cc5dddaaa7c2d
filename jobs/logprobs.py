"""The `logprobs` column: its Arrow type, and its cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from vllm_mlx.outputs import TokenLogprob

_TOKEN = [
    pa.field("token_id", pa.int32()),
    pa.field("token", pa.string()),
    pa.field("logprob", pa.float32()),
]

LOGPROBS = pa.list_(pa.struct([*_TOKEN, pa.field("top", pa.list_(pa.struct(_TOKEN)))]))


def logprobs_cell(tokens: Iterable[TokenLogprob] | None) -> list[dict[str, Any]] | None:
    """One row's cell; null where no log-probabilities were asked for."""
    if tokens is None:
        return None
    return [_token(token) | {"top": [_token(other) for other in token.top]} for token in tokens]


def logprobs_of(cell: Iterable[dict[str, Any]] | None) -> tuple[TokenLogprob, ...] | None:
    """What `logprobs_cell` made the cell of."""
    if cell is None:
        return None
    return tuple(
        TokenLogprob(**token | {"top": tuple(TokenLogprob(**other) for other in token["top"])})
        for token in cell
    )


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token_id": token.token_id, "token": token.token, "logprob": token.logprob}
