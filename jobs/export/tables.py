"""A dataset as JSONL and as CSV: a line a row."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from jobs.export.finished import Finished


def json_lines(finished: Finished, columns: Sequence[str]) -> Iterator[bytes]:
    """Yield each row as a JSON object; what is no number in JSON, infinity for one, is null."""
    for row in finished.rows(columns):
        yield _json({name: _finite(value) for name, value in row.items()}) + b"\n"


def csv_lines(finished: Finished, columns: Sequence[str]) -> Iterator[bytes]:
    """Yield a header and each row; lists and objects are JSON, null is an empty cell."""
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")

    def written(cells: list[Any]) -> bytes:
        line.seek(0)
        line.truncate()
        writer.writerow(cells)
        return line.getvalue().encode()

    yield written(list(columns))
    for row in finished.rows(columns):
        yield written([_cell(value) for value in row.values()])


def _cell(value: Any) -> Any:
    if isinstance(value, bool | list | dict):
        return _json(_finite(value)).decode()
    return value


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list) else value
