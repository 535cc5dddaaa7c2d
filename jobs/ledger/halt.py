"""`Halt`: why a run is halted, and so why workers begin no more of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from jobs.errors import LedgerError
from jobs.run_spec import RunSpec
from vllm_mlx.json_record import JSONRecord


class HaltReason(StrEnum):
    """What halted a run."""

    PAUSED = "paused"
    PREVIEW = "preview"
    MAX_ERRORS = "max_errors"
    MAX_TIME = "max_time"
    UNTIL = "until"
    MAX_OUTPUT_TOKENS = "max_output_tokens"


@dataclass(frozen=True, slots=True)
class Halt(JSONRecord):
    """A run that was halted goes on when it is continued or resumed.

    Attributes:
        message: the reason in words, for people.
        first_rows: so many rows of the dataset, the first ones, may begin nevertheless.
    """

    reason: HaltReason
    message: str
    first_rows: int = 0

    def __str__(self) -> str:
        return f"{'paused' if self.reason is HaltReason.PAUSED else 'halted'}: {self.message}"

    @classmethod
    def for_preview(cls, spec: RunSpec) -> Halt | None:
        """Return what lets a run's first rows begin, and no others; None if none would be left."""
        count, first = spec.bounds.preview, spec.preview_rows
        if count is None or first >= spec.rows:
            return None
        said = "its first row is done" if count == 1 else f"its first {count} rows are done"
        return cls(HaltReason.PREVIEW, f"{said}, for a look at them (preview)", first)

    @classmethod
    def read(cls, raw: bytes | None) -> Halt | None:
        """Return what the ledger holds; None of a run that is not halted.

        Raises:
            LedgerError: it is not what this version writes.
        """
        try:
            return None if raw is None else cls.decode(raw)
        except ValueError as error:
            raise LedgerError(f"the ledger holds {raw!r:.80} in place of a halt: {error}") from None
