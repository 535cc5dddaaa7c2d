"""`write_report`: reads a dataset, and writes the page about it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.dataset import Dataset
from jobs.dataset.atomic import replace_file
from jobs.errors import DatasetError
from jobs.export.finished import Finished
from jobs.output_folder import refuse_address
from jobs.wording import counted
from vllm_mlx.media.policy import MediaPolicy
from worker.report.columns import Columns
from worker.report.figures import Figures
from worker.report.page import page
from worker.report.pictures import Pictures
from worker.report.shown_rows import ShownRow, shown_rows

_NOTHING = MediaPolicy()
_ROW_BYTES, _PICTURE_BYTES = 1_800_000, 2_400_000  # of 5 MB


def write_report(
    root: Path,
    out: Path | None = None,
    *,
    media: MediaPolicy = _NOTHING,
    input_media: bool = True,
) -> Path:
    """Write a dataset's report, of the parts that are there, and return where it is.

    Args:
        out: the file; by default `_job/report.html` in the dataset.
        media: what may be read for its pictures.
        input_media: what lies below the input's folder may be read, too.

    Raises:
        InvalidRequestError: `out` is a URL.
        DatasetError: there are no rows, they can't be read, or the file can't be written.
    """
    refuse_address(out)
    dataset = Dataset(root)
    target = out or dataset.layout.report
    finished = Finished(root, dataset.manifest())
    if input_media and finished.folder.is_dir():
        own = MediaPolicy.of([finished.folder], ()).allowed_paths or ()
        media = replace(media, allowed_paths=(*(media.allowed_paths or ()), *own))
    try:
        html = _html(finished, media)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(
            f"{root} can't be read ({error}): `mlx-batch verify` says which part"
        ) from error
    replace_file(target, html.encode("utf-8", "replace"), target.parent)
    return target


def _html(dataset: Finished, media: MediaPolicy) -> str:
    manifest = dataset.manifest
    columns = Columns(dataset.root)
    figures = Figures.of(columns, manifest)
    kept, written = _within(shown_rows(dataset, columns, len(figures.error_groups)))
    pictures = Pictures(media, _PICTURE_BYTES)
    for row, json_row in zip(kept, written, strict=True):
        json_row["media"] = [pictures.of(kind, source) for kind, source in row.media]
    return page(
        dataset.root.absolute().name,
        manifest,
        figures,
        written,
        pictures.urls,
        warnings=_warnings(dataset, columns, figures, pictures),
        rows_note=_rows_note(len(kept), figures.rows),
    )


def _within(rows: list[ShownRow]) -> tuple[list[ShownRow], list[dict[str, Any]]]:
    """Return as many rows as there is room for, spread evenly."""
    written = [row.as_json() for row in rows]
    size = sum(len(json.dumps(each, default=str).encode()) for each in written)
    step = max(1, -(-size // _ROW_BYTES))
    return rows[::step], written[::step]


def _rows_note(shown: int, rows: int) -> str:
    if shown == rows:
        return f"All {counted(rows, 'row')}."
    return (
        f"{shown:,} of {rows:,} rows, spread over the dataset, with the first of each error; "
        "the figures above are of all rows."
    )


def _warnings(
    dataset: Finished, columns: Columns, figures: Figures, pictures: Pictures
) -> list[str]:
    found = []
    shards, rows = dataset.manifest["shards"], dataset.manifest["rows"]
    if not Dataset(dataset.root).is_finished:
        whole = sum(part.parent.name == "data" for part in columns.parts)
        found.append(
            f"Unfinished: {figures.rows:,} of {rows:,} rows are here, and {whole:,} of {shards:,} "
            "parts are whole."
        )
    if pictures.left_out:
        found.append(f"{pictures.left_out:,} images and videos have no picture for want of room.")
    return found
