"""`shards_of`: the rows of an input, cut into the payloads of a run's jobs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from jobs.duplicates import Duplicates
from jobs.errors import InputFileError
from jobs.run_spec import RunSpec
from jobs.sources import Input, RawRow, SourceRow, validated

Shard = tuple[int, dict[str, Any]]
"""Its number and its job's payload."""


def shards_of(
    source: Input, spec: RunSpec, version: Hashable, duplicates: Duplicates
) -> Iterator[Shard]:
    """Yield all shards. The survey settled the ids: rows are validated only if some are bad.

    Args:
        version: of the input when it was surveyed.
        duplicates: rows whose payload says which row asks the same.

    Raises:
        InputFileError: the input has been changed since.
    """
    shared = {"run_id": spec.run_id, "folder": str(source.folder)}
    rows: Iterable[SourceRow | RawRow] = source.rows()
    if spec.bad_rows:
        rows = validated(source, sampling=spec.sampling, n=spec.n, chat=spec.chat)
    firsts = set(duplicates.values())
    for shard, pieces in enumerate(_pieces(_unchanged(rows, source, version), spec)):
        if duplicates:
            _mark(pieces, duplicates, firsts)
        yield shard, {**shared, "shard": shard, "rows": pieces}


def _mark(pieces: list[dict[str, Any]], duplicates: Duplicates, firsts: set[int]) -> None:
    for piece in pieces:
        if (first := duplicates.get(piece["row"])) is not None:
            piece["same_as"] = first
        elif piece["row"] in firsts:
            piece["has_same"] = True


def _unchanged(
    rows: Iterable[SourceRow | RawRow], source: Input, version: Hashable
) -> Iterator[SourceRow | RawRow]:
    """Yield the rows; before the first and after the last the input must be what it was."""
    for at, row in enumerate(rows):
        if not at:
            _check_version(source, version)
        yield row
    _check_version(source, version)


def _check_version(source: Input, version: Hashable) -> None:
    if source.version() != version:
        raise InputFileError(f"{source.path} was changed while it was enqueued: enqueue it again")


def _pieces(rows: Iterable[SourceRow | RawRow], spec: RunSpec) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each shard, which has `shard_size` samples.

    The samples of a row follow each other, so that an engine computes its prompt once; where a
    shard ends between them, the rest begins the next. A shard has the row once nevertheless.
    """
    pieces: list[dict[str, Any]] = []
    room = spec.shard_size
    for source in rows:
        first, end = 0, _samples(source, spec)
        while first < end:
            count = min(room, end - first)
            pieces.append(_row(source, first, count))
            first, room = first + count, room - count
            if not room:
                yield pieces
                pieces, room = [], spec.shard_size
    if pieces:
        yield pieces


def _samples(source: SourceRow | RawRow, spec: RunSpec) -> int:
    if isinstance(source, SourceRow):
        return source.samples
    return spec.dialect.samples(source.data, spec.n)


def _row(source: SourceRow | RawRow, first: int, samples: int) -> dict[str, Any]:
    row: dict[str, Any] = {"row": source.row, "data": source.data}
    if (first, samples) != (0, 1):
        row |= {"sample_index": first, "samples": samples}
    if isinstance(source, SourceRow) and source.error:
        row |= {"id": source.id, "error": str(source.error)}
    elif source.error:
        raise InputFileError(f"line {source.line} was good a moment ago: the file was changed")
    return row
