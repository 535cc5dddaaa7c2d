"""`Counts`: rows and tokens, as the ledger adds them up."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass

from pydantic import TypeAdapter, ValidationError

from jobs.errors import LedgerError
from jobs.result_row import ResultRow

_JSON = TypeAdapter(tuple[int, int, int, int] | tuple[int, int, int, int, int])


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows and tokens that are done.

    Attributes:
        incomplete: those of the rows that are ok whose constrained answer was cut.
    """

    ok: int = 0
    error: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    incomplete: int = 0

    @classmethod
    def of(cls, rows: Iterable[ResultRow]) -> Counts:
        outputs = [row.output for row in rows]
        errors = sum(output.finish_reason == "error" for output in outputs)
        return cls(
            ok=len(outputs) - errors,
            error=errors,
            prompt_tokens=sum(output.prompt_tokens for output in outputs),
            completion_tokens=sum(output.completion_tokens for output in outputs),
            incomplete=sum(output.complete is False for output in outputs),
        )

    @classmethod
    def decode(cls, raw: bytes) -> Counts:
        """Return what `encode` wrote.

        Raises:
            LedgerError: it is something else.
        """
        try:
            return cls(*_JSON.validate_json(raw, strict=True))
        except ValidationError:
            raise LedgerError(f"the ledger holds {raw[:80]!r} in place of counts") from None

    def encode(self) -> str:
        return json.dumps(astuple(self))

    @property
    def rows(self) -> int:
        return self.ok + self.error

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(sum, zip(astuple(self), astuple(other), strict=True)))
