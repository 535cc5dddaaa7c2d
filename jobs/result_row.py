"""`ResultRow`: one finished request, as JSON in the ledger and as cells in the dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
from pydantic import Field, NaiveDatetime, ValidationError

from vllm_mlx.json_record import JSONRecord
from vllm_mlx.outputs import GenerationOutput


@dataclass(frozen=True, slots=True)
class ResultRow(JSONRecord):
    """One finished request.

    Attributes:
        id: the request's name, unique in the run.
        row: its position in the input.
        output: the answer, or the error it ended in.
        attempts: how often it was tried.
        worker: name of the worker that finished it.
        sample_index: which of the answers to this request, from 0.
        finished_at: when it ended, in UTC; None if it is not known.
        duplicate_of: the id of the row whose answer it is, as it asks the same; None of its own.
        columns: the input's own columns, by their name in the input, encoded for their type; they
            are no part of the JSON.
        parsed: the answer as a value, where it is JSON; no part of it, either.
    """

    id: str
    row: int
    output: GenerationOutput
    attempts: int = 1
    worker: str = ""
    sample_index: int = 0
    finished_at: NaiveDatetime | None = None
    duplicate_of: str | None = None
    columns: Annotated[Mapping[str, Any], Field(exclude=True)] = field(default_factory=dict)
    parsed: Annotated[Any, Field(exclude=True)] = None

    def cells(self) -> dict[str, Any]:
        """Return the value of each of `RESULT_COLUMNS`, as `arrow_values` takes it."""
        own: dict[str, Any] = self.adapter().dump_python(self)
        output: dict[str, Any] = own.pop("output")
        if self.finished_at is not None:
            own["finished_at"] = self.finished_at.isoformat()
        return own | output | {"parsed": self.parsed}

    @classmethod
    def of_cells(cls, cells: Mapping[str, Any]) -> ResultRow:
        """Return the row of these cells, which a dataset gave back.

        Raises:
            ValueError: a cell is missing or holds no such value.
        """
        try:
            row: ResultRow = cls.adapter().validate_python({**cells, "output": cells})
            return row
        except ValidationError as error:
            raise cls.refusal(error) from None


class ResultColumn(NamedTuple):
    """A column of every dataset, named as the field of the row or of its output."""

    name: str
    type: pa.DataType
    meaning: str


_TOKEN = [
    pa.field("token_id", pa.int32()),
    pa.field("token", pa.string()),
    pa.field("logprob", pa.float32()),
]
_LOGPROBS = pa.list_(pa.struct([*_TOKEN, pa.field("top", pa.list_(pa.struct(_TOKEN)))]))
_SCORES = pa.list_(
    pa.struct(
        [
            pa.field("choice", pa.string()),
            pa.field("logprob", pa.float64()),
            pa.field("tokens", pa.int32()),
        ]
    )
)
_MEDIA = pa.list_(
    pa.struct(
        [
            pa.field("kind", pa.string()),
            pa.field("hash", pa.string()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("duration_s", pa.float64()),
            pa.field("timestamps", pa.list_(pa.float64())),
            pa.field("truncated", pa.bool_()),
        ]
    )
)

_TOOL_CALLS = pa.list_(
    pa.struct(
        [
            pa.field("id", pa.string()),
            pa.field("type", pa.string()),
            pa.field(
                "function",
                pa.struct([pa.field("name", pa.string()), pa.field("arguments", pa.string())]),
            ),
        ]
    )
)

RESULT_COLUMNS = tuple(
    ResultColumn(*column)
    for column in (
        ("id", pa.string(), "the request's name, unique in the run"),
        ("row", pa.int64(), "position in the input, from 0"),
        ("sample_index", pa.int32(), "which answer to this request, from 0"),
        ("text", pa.string(), "the generated text"),
        ("parsed", pa.string(), "an answer in JSON as a value; typed where all have one form"),
        ("reasoning", pa.string(), "what the model thought before it; null where it did not"),
        ("tool_calls", _TOOL_CALLS, "tools that the model calls; null where it calls none"),
        ("prompt_tokens", pa.int32(), "tokens of the prompt, chat template included"),
        ("completion_tokens", pa.int32(), "tokens of the answer, end token included"),
        (
            "reasoning_tokens",
            pa.int32(),
            "those of them that the thought took, line breaks too, without its markers",
        ),
        ("finish_reason", pa.string(), "`stop`, `length`, `repetition` or `error`"),
        (
            "complete",
            pa.bool_(),
            "whether a constrained answer is whole: false where it was cut, or ended within the "
            "thought; null without",
        ),
        ("error_type", pa.string(), "class of the error, for rows in error"),
        ("error", pa.string(), "its message"),
        ("model", pa.string(), "the model that answered"),
        ("seed", pa.int64(), "seed of the sampling; null for greedy decoding"),
        ("cached_tokens", pa.int32(), "prompt tokens computed once for several prompts"),
        ("attempts", pa.int32(), "how often the request was tried"),
        ("latency_s", pa.float64(), "seconds from submission to the last token, waiting included"),
        ("worker", pa.string(), "the worker that finished the row"),
        # Without a time zone: duckdb would need pytz for one.
        ("finished_at", pa.timestamp("us"), "when it did, in UTC; null if it is not known"),
        (
            "duplicate_of",
            pa.string(),
            "id of the row that asks the same and was answered; else null",
        ),
        (
            "logprobs",
            _LOGPROBS,
            "each token of the answer and the likeliest at its place; null if not asked for",
        ),
        (
            "prompt_logprobs",
            _LOGPROBS,
            "the same of each token of the prompt, null for the first; null if not asked for",
        ),
        (
            "scores",
            _SCORES,
            "the labels and how likely each follows the prompt, the best first; null without",
        ),
        (
            "media",
            _MEDIA,
            "the images and videos as the model saw them; null where there were none",
        ),
    )
)
"""The columns of every dataset, in order; the input's own columns follow them."""
