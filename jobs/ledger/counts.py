"""`Counts`: rows and tokens, as the ledger adds them up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from jobs.errors import LedgerError
from jobs.result_row import ResultRow

_Types = dict[Annotated[str, Field(max_length=200)], int]
_JSON = TypeAdapter(
    tuple[int, int, int, int]
    | tuple[int, int, int, int, int]
    | tuple[int, int, int, int, int, _Types]
    | tuple[int, int, int, int, int, _Types, int]
)


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows and tokens that are done.

    Attributes:
        prompt_tokens, completion_tokens: of the rows that are no duplicates.
        incomplete: those of the rows that are ok whose constrained answer is not whole.
        error_types: how many of the rows in error have which `error_type`; those that an older
            version counted are of no type.
        duplicates: rows that were given the answer of another.
    """

    ok: int = 0
    error: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    incomplete: int = 0
    error_types: Mapping[str, int] = field(default_factory=dict)
    duplicates: int = 0

    @classmethod
    def of(cls, rows: Iterable[ResultRow]) -> Counts:
        rows = list(rows)
        outputs = [row.output for row in rows]
        own = [row.output for row in rows if row.duplicate_of is None]
        types = Counter(
            output.error_type or "" for output in outputs if output.finish_reason == "error"
        )
        return cls(
            ok=len(outputs) - types.total(),
            error=types.total(),
            prompt_tokens=sum(output.prompt_tokens for output in own),
            completion_tokens=sum(output.completion_tokens for output in own),
            incomplete=sum(output.complete is False for output in outputs),
            error_types=dict(types),
            duplicates=len(outputs) - len(own),
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
        """Return the JSON; an older version reads it where no row is in error or a duplicate."""
        more = [self.error_types, self.duplicates] if self.duplicates else [self.error_types]
        return json.dumps([*self._numbers, *(more if any(more) else [])])

    @property
    def rows(self) -> int:
        return self.ok + self.error

    @property
    def _numbers(self) -> tuple[int, ...]:
        tokens = (self.prompt_tokens, self.completion_tokens)
        return (self.ok, self.error, *tokens, self.incomplete)

    def __add__(self, other: Counts) -> Counts:
        types = Counter(self.error_types) + Counter(other.error_types)
        pairs = zip(self._numbers, other._numbers, strict=True)
        ok, error, prompt, completion, incomplete = map(sum, pairs)
        duplicates = self.duplicates + other.duplicates
        return Counts(ok, error, prompt, completion, incomplete, dict(types), duplicates)
