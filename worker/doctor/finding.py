"""`Finding`: one line of what the doctor found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

State = Literal["ok", "advice", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, and what is to be done about it.

    Attributes:
        state: `advice` where all works and something could be better.
        found: what is there.
        advice: what to do; empty of what is ok.
    """

    name: str
    state: State
    found: str
    advice: str = ""

    @classmethod
    def ok(cls, name: str, found: str) -> Finding:
        return cls(name, "ok", found)

    @classmethod
    def of(cls, name: str, found: str, advice: str, *, fails: bool) -> Finding:
        """Return one that something is to be done about."""
        return cls(name, "failed" if fails else "advice", found, advice)

    def as_dict(self) -> dict[str, Any]:
        return {each: getattr(self, each) for each in ("name", "state", "found", "advice")}
