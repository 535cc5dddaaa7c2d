"""`Stretch`: what was done of a run since it was enqueued or let go on, and what bounds that."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jobs.errors import LedgerError
from jobs.ledger.halt import Halt, HaltReason
from jobs.run_bounds import RunBounds
from jobs.run_spec import RunSpec
from jobs.wording import counted

FIRST = 20  # rows that all end in one type of error before a run is halted
ALIKE = "alike"  # so many in place of a number of errors
ERROR = "error:"


@dataclass(frozen=True, slots=True)
class Stretch:
    """One stretch of a run.

    Attributes:
        rows: of the whole run.
        is_spent: it has had as many errors as halt the run; no more are recorded, see `ShardLease`.
        until: when it has to end, in seconds of the epoch.
        began: when its first job began, if that matters.
        ok, output_tokens, errors: what was recorded in it; errors by type. Bad rows, whose errors
            were known before, do not count.
        seconds: in which it was worked on.
    """

    bounds: RunBounds
    rows: int
    until: float | None = None
    began: float | None = None
    ok: int = 0
    output_tokens: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    seconds: int = 0
    is_spent: bool = False

    @classmethod
    def nothing(cls) -> Stretch:
        """Return a stretch without bounds, in which nothing was done."""
        return cls.read({})

    @staticmethod
    def fields(spec: RunSpec) -> dict[Any, Any]:
        """Return the hash of a stretch that begins now."""
        fields: dict[Any, Any] = {"bounds": spec.bounds.model_dump_json(), "rows": spec.rows}
        allowed = spec.bounds.errors_allowed(spec.rows)
        fields["most_errors"] = ALIKE if allowed is None else int(allowed)
        if deadline := spec.bounds.deadline(datetime.now()):
            fields["until"] = int(deadline.timestamp())
        return fields

    @classmethod
    def read(cls, hash: Mapping[bytes, bytes]) -> Stretch:
        """Return what a hash holds; of a run that has none, of an older version, no bounds.

        Raises:
            LedgerError: it is not what this version writes.
        """
        try:
            said = {name.decode(): value.decode() for name, value in hash.items()}
            errors = {
                name.removeprefix(ERROR): int(count)
                for name, count in said.items()
                if name.startswith(ERROR)
            }
            return cls(
                bounds=RunBounds.model_validate_json(said.get("bounds", "{}")),
                rows=int(said.get("rows", 0)),
                until=float(said["until"]) if "until" in said else None,
                began=float(said["began"]) if "began" in said else None,
                ok=int(said.get("ok", 0)),
                output_tokens=int(said.get("output_tokens", 0)),
                errors=errors,
                seconds=int(said.get("seconds", 0)),
                is_spent="is_spent" in said,
            )
        except ValueError as error:
            raise LedgerError(f"the ledger holds {hash!r:.80} in place of a stretch") from error

    @property
    def tokens_per_second(self) -> float:
        """How many were generated in a second, on an average; 0 if that is not known yet."""
        return self.output_tokens / self.seconds if self.seconds else 0.0

    @property
    def is_to_be_timed(self) -> bool:
        """Whether it has to be noted when its first job begins."""
        return self.bounds.max_time is not None and self.began is None

    def end(self) -> Halt | None:
        """Return why the run has to be halted; None if it may go on, or nothing of it is left."""
        bounds, now = self.bounds, time.time()
        errors = sum(self.errors.values())
        rows = self.ok + errors
        if rows >= self.rows > 0:
            return None
        if self.is_spent:
            return Halt(HaltReason.MAX_ERRORS, self._errors(errors))
        most = bounds.max_output_tokens
        if most is not None and self.output_tokens >= most:
            reason = f"{counted(most, 'token')} and more were generated (max_output_tokens)"
            return Halt(HaltReason.MAX_OUTPUT_TOKENS, reason)
        if self.until is not None and now >= self.until:
            return Halt(HaltReason.UNTIL, f"it is {bounds.until} (until)")
        seconds = bounds.seconds
        if seconds is not None and self.began is not None and now >= self.began + seconds:
            unit = " s" if str(bounds.max_time)[-1].isdigit() else ""
            return Halt(HaltReason.MAX_TIME, f"{bounds.max_time}{unit} have passed (max_time)")
        return None

    def _errors(self, count: int) -> str:
        if (given := self.bounds.max_errors) is None:
            return f"the first {count} rows all ended in {next(iter(self.errors))}"
        said = f"{counted(count, 'row')} {'is' if count == 1 else 'are'} in error"
        return f"{said}, and no more than {given} may be (max_errors)"
