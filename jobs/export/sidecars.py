"""`sidecars`: a text file beside each image or video, as trainers of adapters read captions."""

from __future__ import annotations

import os
from pathlib import Path

from jobs.errors import DatasetError
from jobs.export.finished import Finished, Row
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.media.names import SCHEME, located


def sidecars(finished: Finished, out: Path | None) -> dict[int, Path]:
    """Return the sidecar of each row that was answered, by its number.

    Args:
        out: the folder that they go to, in folders as the media are; without, beside the media.

    Raises:
        DatasetError: a row has no file, several of them or several samples, or two rows have the
            same sidecar.
    """
    if (samples := finished.manifest.get("samples", 1)) > 1:
        raise DatasetError(f"its rows have up to {samples} samples: a sidecar holds one text")
    found: dict[int, Path] = {}
    owners: dict[Path, str] = {}
    for row in finished.rows():
        if row["error"] is not None:
            continue
        sidecar = _sidecar(finished, row, out)
        if (other := owners.setdefault(sidecar, row["id"])) != row["id"]:
            raise DatasetError(f"rows {other!r} and {row['id']!r} have the same sidecar {sidecar}")
        found[row["row"]] = sidecar
    return found


def _medium(finished: Finished, row: Row) -> Path:
    """Return the one file that a row is about."""
    try:
        media = finished.request(row).media
    except InvalidRequestError as error:
        raise DatasetError(f"row {row['id']!r}: {error}") from error
    if len(media) != 1:
        raise DatasetError(
            f"row {row['id']!r} has {len(media)} images and videos: a sidecar goes with one; "
            "jsonl and csv take all rows"
        )
    source = located(media[0][media[0]["type"]], finished.folder)
    if SCHEME.match(source) or not Path(source).is_file():
        raise DatasetError(f"row {row['id']!r}: {source} is no file here")
    return Path(os.path.normpath(source))


def _sidecar(finished: Finished, row: Row, out: Path | None) -> Path:
    medium = _medium(finished, row)
    if out is not None:
        if finished.manifest["input"]["media"] is not None:  # the id is the path in the folder
            medium = out / row["id"]
        elif medium.is_relative_to(finished.folder):
            medium = out / medium.relative_to(finished.folder)
        else:
            medium = out / medium.name
    return medium.with_suffix(".txt")
