"""`Figures`: what the report says of all rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from jobs.column_types import JSON_TEXT
from worker.report.columns import ROWS, Columns
from worker.report.distribution import Distribution
from worker.report.labels import Field, labels_of

_SLICES = 48
_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)
_MICRO = 1_000_000
_MOST_WORKERS = 7  # that have a color of their own
OTHERS = "(others)"


class ErrorGroup(NamedTuple):
    """Rows that ended in one type of error, and one of them."""

    error_type: str
    rows: int
    id: str
    error: str


class Worker(NamedTuple):
    """What one worker did, between its first row's start and its last row's end."""

    name: str
    rows: int
    tokens: int
    first: float
    last: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.last - self.first, 1e-6)


class Slice(NamedTuple):
    """What one worker did in a stretch of time."""

    start: datetime
    end: datetime
    worker: str
    rows: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What the rows of a dataset add up to.

    Attributes:
        finish_reasons: rows by finish reason.
        incomplete: rows whose constrained answer is not whole.
        workers: what each did, if it is known when rows ended; the busiest first.
        slices: rows and tokens a second over time, by worker.
    """

    finish_reasons: Mapping[str, int]
    error_groups: list[ErrorGroup]
    incomplete: int
    prompt_tokens: Distribution
    completion_tokens: Distribution
    latency: Distribution
    workers: list[Worker]
    slices: list[Slice]
    labels: list[Field]

    @classmethod
    def of(cls, columns: Columns, manifest: Mapping[str, Any]) -> Figures:
        """Read the columns that this takes."""
        reasons = columns.counted("finish_reason")
        workers = _workers(columns)
        return cls(
            finish_reasons=dict(sorted(reasons.items(), key=lambda item: -item[1])),
            error_groups=_error_groups(columns),
            incomplete=columns.counted("complete").get(False, 0),
            prompt_tokens=_of_answers(columns, pc.field("prompt_tokens")),
            completion_tokens=_of_answers(columns, pc.field("completion_tokens")),
            # Three digits: a value of its own for each row would be a million of them.
            latency=_of_answers(columns, _three_digits(pc.field("latency_s"))),
            workers=workers,
            slices=_slices(columns, workers),
            labels=labels_of(columns, manifest.get("parsed", JSON_TEXT)),
        )

    @property
    def rows(self) -> int:
        return sum(self.finish_reasons.values())

    @property
    def errors(self) -> int:
        return self.finish_reasons.get("error", 0)

    @property
    def seconds(self) -> float | None:
        """From the first row's start to the last row's end; None if that is not known."""
        if not self.workers:
            return None
        return max(each.last for each in self.workers) - min(each.first for each in self.workers)


def _of_answers(columns: Columns, value: pc.Expression) -> Distribution:
    """Return how a number is distributed over the rows that have an answer of their own."""
    failed = pc.field("finish_reason") == "error"
    groups = columns.grouped({"value": value, "left_out": failed | ~_is_own(columns)})
    return Distribution({each["value"]: each[ROWS] for each in groups if not each["left_out"]})


def _is_own(columns: Columns) -> pc.Expression:
    """Return whether a row is no duplicate of another, whose numbers it was given."""
    if "duplicate_of" not in columns.names:  # of an older version
        return pc.scalar(True)
    return pc.field("duplicate_of").is_null()


def _generated(columns: Columns) -> pc.Expression:
    return pc.if_else(_is_own(columns), pc.field("completion_tokens"), 0)


def _three_digits(value: pc.Expression) -> pc.Expression:
    power = pc.floor(pc.log10(pc.max_element_wise(value, 0.001)))
    unit = pc.power(pc.scalar(10.0), pc.subtract(power, 2.0))
    return pc.multiply(pc.round(pc.divide(value, unit)), unit)


def _error_groups(columns: Columns) -> list[ErrorGroup]:
    groups = columns.grouped(
        {"error_type": pc.field("error_type")},
        {name: ("one", pc.field(name)) for name in ("id", "error")},
    )
    found = [
        ErrorGroup(each["error_type"], each[ROWS], each["id"], each["error"] or "")
        for each in groups
        if each["error_type"] is not None
    ]
    return sorted(found, key=lambda failure: (-failure.rows, failure.error_type))


def _ended() -> pc.Expression:
    """Return when a row ended, in microseconds; the whole seconds of it would be too coarse."""
    return pc.field("finished_at").cast(pa.int64())


def _workers(columns: Columns) -> list[Worker]:
    if "finished_at" not in columns.names:  # of an older version
        return []
    begun = pc.subtract(
        _ended(), (pc.multiply(pc.field("latency_s"), float(_MICRO))).cast(pa.int64(), safe=False)
    )
    groups = columns.grouped(
        {"worker": pc.field("worker")},
        {
            "first": ("min", begun),
            "last": ("max", _ended()),
            "tokens": ("sum", _generated(columns)),
        },
    )
    found = [
        Worker(
            each["worker"],
            each[ROWS],
            each["tokens"],
            each["first"] / _MICRO,
            each["last"] / _MICRO,
        )
        for each in groups
        if each["last"] is not None
    ]
    return sorted(found, key=lambda worker: (-worker.rows, worker.name))


def _slices(columns: Columns, workers: list[Worker]) -> list[Slice]:
    if not workers:
        return []
    first = min(worker.first for worker in workers)
    span = max(worker.last for worker in workers) - first
    width = next((each for each in _SECONDS if each * _SLICES >= span), 7 * _SECONDS[-1])
    start = int(first // width * width)
    at = pc.divide(pc.subtract(_ended(), start * _MICRO), width * _MICRO)
    groups = columns.grouped(
        {"worker": pc.field("worker"), "at": at},
        {"tokens": ("sum", _generated(columns))},
    )
    known = {worker.name for worker in workers[:_MOST_WORKERS]}
    added: dict[tuple[int, str], tuple[int, int]] = {}
    for each in groups:
        if each["at"] is not None:
            key = each["at"], each["worker"] if each["worker"] in known else OTHERS
            rows, tokens = added.get(key, (0, 0))
            added[key] = rows + each[ROWS], tokens + each["tokens"]
    return [
        Slice(
            _time(start + at * width),
            _time(start + (at + 1) * width),
            name,
            rows / width,
            tokens / width,
        )
        for (at, name), (rows, tokens) in sorted(added.items())
    ]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
