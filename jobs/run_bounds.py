"""`RunBounds`: what ends a run early, in order."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from vllm_mlx.parameters import Parameters, plain_scalar, whole

_UNITS = {"h": 3600, "m": 60, "s": 1}
_TIME = re.compile(r"(?=\d)(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")
_ERRORS = re.compile(r"\d+|\d+(\.\d+)?%")
_CLOCK = re.compile(r"([01]?\d|2[0-3]):[0-5]\d")
MOST_SECONDS = 10**9


def _as_text(value: Any) -> Any:
    value = whole(plain_scalar(value))
    return str(value) if type(value) in (int, float) else value


def _errors(text: str) -> str:
    if not _ERRORS.fullmatch(text) or (text.endswith("%") and float(text[:-1]) > 100):
        raise ValueError("should be a number of rows, such as 50, or a share, such as 5%")
    return text


def _time(text: str) -> str:
    if not 0 < seconds_of(text) <= MOST_SECONDS:
        raise ValueError("should be a time above 0, such as 8h, 90m, 1h30m or 45s")
    return text


def _clock(text: str) -> str:
    if not _CLOCK.fullmatch(text):
        raise ValueError("should be a time of the day from 00:00 to 23:59, such as 07:00")
    return text


class RunBounds(Parameters):
    """Bounds at which a run is halted: no more rows begin, those under way end, and it can go on.

    Each counts from when the run was enqueued, or was last let go on.
    """

    max_errors: Annotated[str, AfterValidator(_errors), BeforeValidator(_as_text)] | None = None
    """Halt when more rows than this are in error, or a larger share of all (5%).

    Without it a run is halted when its first 20 rows all end in one type of error; 100% never
    halts. Bad rows that were let through do not count. Rows under way that end in error after that
    are tried again when the run goes on.
    """
    max_time: Annotated[str, AfterValidator(_time), BeforeValidator(_as_text)] | None = None
    """Halt this long after the first row began: 8h, 90m, 1h30m; a number is seconds."""
    until: Annotated[str, AfterValidator(_clock)] | None = None
    """Halt at this time of the day, by the enqueuing machine's clock: 07:00 is the next one."""
    preview: int | None = Field(None, ge=1)
    """Halt when the first so many rows of the input have ended, for a look at them.

    No others begin before, in no worker. They stay answered. It is over when the run is let go on.
    """
    max_output_tokens: int | None = Field(None, ge=1)
    """Halt when all rows together have generated this many tokens.

    Rows under way end, so there may be as many more as they generate.
    """

    @property
    def seconds(self) -> float | None:
        """`max_time` as a number."""
        return None if self.max_time is None else seconds_of(self.max_time)

    def errors_allowed(self, rows: int) -> float | None:
        """Return how many of so many rows may end in error; None where the default holds."""
        given = self.max_errors
        if given is None:
            return None
        return float(given[:-1]) / 100 * rows if given.endswith("%") else float(given)

    def deadline(self, now: datetime) -> datetime | None:
        """Return when it is `until` next, by the local time of `now`."""
        if self.until is None:
            return None
        hour, minute = map(int, self.until.split(":"))
        local = now.replace(tzinfo=None)  # a day may have 23 hours
        at = local.replace(hour=hour, minute=minute, second=0, microsecond=0)
        return at if at > local else at + timedelta(days=1)


def seconds_of(text: str) -> float:
    """Return the seconds that a time stands for; 0 if it is none."""
    found = _TIME.fullmatch(text)
    if not found:
        return 0.0
    return sum(
        float(part) * each
        for part, each in zip(found.groups(), _UNITS.values(), strict=True)
        if part
    )
