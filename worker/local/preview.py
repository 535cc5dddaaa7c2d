"""`Preview`: the first answers of a run, for a look before it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pyarrow.parquet as pq
from redis import Redis

from jobs.dataset import Dataset
from jobs.errors import RunHaltedError
from jobs.ledger import read_row
from jobs.ledger.keys import rows_key
from jobs.run_spec import RunSpec
from jobs.sources import Input, RawRow


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """One row.

    Attributes:
        said: the answer, or the error.
        asked: the prompt, or what is said last in a chat.
    """

    id: str
    row: int
    sample_index: int
    said: str
    finish_reason: str
    asked: str = ""


class RunPreviewedError(RunHaltedError):
    """A run was halted for a look at its first rows.

    Attributes:
        rows: these.
    """

    def __init__(self, message: str, rows: list[PreviewRow]) -> None:
        super().__init__(message)
        self.rows = rows


def preview_rows(connection: Redis, spec: RunSpec, source: Input) -> list[PreviewRow]:
    """Return the rows of a run's preview, in the order of its input."""
    done = sorted(_done(connection, spec), key=lambda row: (row.row, row.sample_index))
    done = done[: spec.preview_rows]
    wanted = {row.row for row in done}
    asked = {row.row: _asked(source, row) for row in source.rows() if row.row in wanted}
    return [replace(row, asked=asked[row.row]) for row in done]


def _done(connection: Redis, spec: RunSpec) -> Iterator[PreviewRow]:
    """Yield rows of the shards of the preview that are recorded, or stand in a part."""
    layout = Dataset(Path(spec.out)).layout
    for shard in range(-(-spec.preview_rows // spec.shard_size)):
        for raw in cast(list[bytes], connection.hvals(rows_key(spec.run_id, shard))):
            row = read_row(raw)
            said = row.output.error or row.output.text
            reason = str(row.output.finish_reason)
            yield PreviewRow(row.id, row.row, row.sample_index, said, reason)
        if (part := layout.part(shard, spec.shards)).exists():
            names = ["id", "row", "sample_index", "text", "error", "finish_reason"]
            for cells in pq.read_table(part, columns=names, partitioning=None).to_pylist():
                said = cells.pop("error") or cells["text"]
                del cells["text"]
                yield PreviewRow(**cells, said=said)


def _asked(source: Input, row: RawRow) -> str:
    try:
        request = source.dialect.request(row.data)
    except ValueError:  # a bad row
        return ""
    last = request.chat()[-1]["content"]
    if isinstance(last, str):
        return last
    return " ".join(part.get("text") or f"[{part['type']}]" for part in last or [])
