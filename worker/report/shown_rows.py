"""`ShownRows`: the rows that the page holds: all of a small dataset, some of a large one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.export.finished import Finished, Row
from jobs.result_row import RESULT_COLUMNS
from vllm_mlx.errors import InvalidRequestError
from worker.report.columns import Columns

MOST_ROWS = 1000
_MOST_FAILED = 200
_PARTS = 40  # that rows are taken from, beside those in error
_LONGEST = 4000  # characters of one text
_LEFT_OUT = {"logprobs", "prompt_logprobs", "model", "media"}
_ASKED = ("prompt", "messages", "conversations")
_OWN = {column.name for column in RESULT_COLUMNS}


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row of the page.

    Attributes:
        cells: its values, by the dataset's columns.
        asked: what was asked, as turns of a role and a text.
        media: where its images and videos are, with their kind.
    """

    cells: Row
    asked: list[tuple[str, str]]
    media: list[tuple[str, str]]

    def as_json(self) -> dict[str, Any]:
        """Return it as the page's script reads it: what all rows have, and the input's columns."""
        own = {name: _short(self.cells.get(name)) for name in _OWN - _LEFT_OUT}
        given = {
            name: _short(value)
            for name, value in self.cells.items()
            if name not in _OWN and value is not None and not (self.asked and name in _ASKED)
        }
        kept = {name: value for name, value in own.items() if value is not None}
        return {**kept, "asked": self.asked, "given": given}


def shown_rows(dataset: Finished, columns: Columns, errors: int) -> list[ShownRow]:
    """Return the rows to show, in their order: each error's first ones, others spread evenly.

    Args:
        errors: how many types of them there are.
    """
    wanted = [name for name in columns.names if name not in _LEFT_OUT]
    found: dict[tuple[int, int], Row] = {}
    for table in _chosen(columns, wanted, errors):
        for row in dataset.rows_of(table):
            found.setdefault((row["row"], row["sample_index"]), row)
    return [_shown(dataset, found[place]) for place in sorted(found)]


def _chosen(columns: Columns, wanted: list[str], errors: int) -> Iterator[pa.Table]:
    counts = columns.rows()
    if sum(counts) <= MOST_ROWS:
        for part in columns.parts:
            yield _read(part, wanted)
        return
    for failed, rows in columns.first_failures(max(1, _MOST_FAILED // max(1, errors))).items():
        table = _read(failed, wanted)
        yield table.filter(pc.field("row").isin(pa.array(rows, pa.int64())))
    places = _spread(len(columns.parts), _PARTS)
    most = (MOST_ROWS - _MOST_FAILED) // len(places)
    for place in places:
        table = _read(columns.parts[place], wanted)
        yield table.take(_spread(table.num_rows, most))


def _read(part: str | Path, columns: list[str]) -> pa.Table:
    return pq.read_table(part, columns=columns, use_threads=False)


def _spread(count: int, most: int) -> list[int]:
    """Return at most so many of `count` places, evenly spread."""
    return [at * count // most for at in range(most)] if count > most else list(range(count))


def _shown(dataset: Finished, row: Row) -> ShownRow:
    try:
        request = dataset.request(row).located(dataset.folder)
    except InvalidRequestError:
        return ShownRow(row, [], [])
    media = [(part["type"], part[part["type"]]) for part in request.media]
    turns = [(turn["role"], _said(turn["content"])) for turn in request.chat()]
    return ShownRow(row, [(role, _clipped(text)) for role, text in turns if text], media)


def _said(content: Any) -> str:
    if isinstance(content, str) or content is None:
        return content or ""
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _short(value: Any) -> Any:
    """Return a value with its long texts cut, whichever way it nests."""
    if isinstance(value, str):
        return _clipped(value)
    if isinstance(value, Mapping):
        return {_clipped(name): _short(each) for name, each in list(value.items())[:100]}
    return list(map(_short, value[:100])) if isinstance(value, list) else value


def _clipped(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}… ({len(text):,} characters in all)"
