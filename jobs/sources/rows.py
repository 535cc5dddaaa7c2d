"""What reading yields: `RawRow` as it stands in the file, `SourceRow` as understood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from jobs.requests import GenerationRequest
from vllm_mlx.errors import InvalidRequestError

RowOrError: TypeAlias = dict[str, Any] | InvalidRequestError
"""What stands in one place of the file: a row's object, or why there is none."""


class RawRow(NamedTuple):
    """A row of the file, decoded but not validated.

    Attributes:
        row: position among the data rows, from 0.
        line: the line of the file it begins on, from 1; in Parquet, the row's number from 1.
        data: the row's object, JSON-able; empty when it could not be decoded.
        error: why it could not be decoded.
    """

    row: int
    line: int
    data: dict[str, Any]
    error: InvalidRequestError | None


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row of the file with the request it stands for, or with what is wrong with it.

    Attributes:
        row, line, data: as in `RawRow`.
        id: unique in the file: the row's own, or else its position `str(row)`. A bad row whose
            own id can't be used, when its position is another row's id, gets a name made of it.
        request: None for a bad row.
        samples: how many rows of the dataset it makes; one for a bad row.
        error: what is wrong; None for a good row.
    """

    row: int
    line: int
    id: str
    data: dict[str, Any]
    request: GenerationRequest | None
    samples: int
    error: InvalidRequestError | None
