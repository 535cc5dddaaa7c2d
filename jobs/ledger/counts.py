"""`Counts`: rows and tokens, as the ledger sums them up."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from jobs.errors import LedgerError
from vllm_mlx.outputs import GenerationOutput


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows and tokens that are done."""

    ok: int = 0
    error: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def of(cls, outputs: Iterable[GenerationOutput]) -> Counts:
        outputs = list(outputs)
        errors = sum(output.finish_reason == "error" for output in outputs)
        return cls(
            ok=len(outputs) - errors,
            error=errors,
            prompt_tokens=sum(output.prompt_tokens for output in outputs),
            completion_tokens=sum(output.completion_tokens for output in outputs),
        )

    @classmethod
    def sum_of(cls, encoded: Iterable[bytes]) -> Counts:
        """The sum of what `encode` wrote.

        Raises:
            LedgerError: something else wrote there.
        """
        total = cls()
        for raw in encoded:
            total += cls.decode(raw)
        return total

    @classmethod
    def decode(cls, raw: bytes) -> Counts:
        """What `encode` wrote.

        Raises:
            LedgerError: something else wrote there.
        """
        try:
            values = json.loads(raw)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, list) or [type(value) for value in values] != [int] * 4:
            raise LedgerError(f"the ledger holds {raw[:80]!r} in place of counts")
        return cls(*values)

    def encode(self) -> str:
        return json.dumps(self._values)

    @property
    def rows(self) -> int:
        return self.ok + self.error

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(self._values, other._values, strict=True)))

    @property
    def _values(self) -> tuple[int, ...]:
        return tuple(asdict(self).values())
