"""What a dataset looks like on disk: the files of its folder and the columns of its rows.

DIR/data/train-00000-of-00012.parquet   only finished parts, each with the one full schema
DIR/_job/manifest.json                  what the run was asked for and, at its end, what came of it
DIR/_job/.gitignore                     keeps all in _job/ out of a repository
DIR/_job/workers.json                   what `mlx-batch run` told its workers
DIR/_job/report.html                    a page about it, to look at
DIR/_job/unfinished/                    rows of parts that are not whole yet, after a run was ended
DIR/_job/tmp/                           files being written, on the same file system as data/
DIR/README.md                           the dataset card
DIR/_SUCCESS                            empty, written last
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.column_types import JSON_TEXT, TypeSpec, arrow_type
from jobs.errors import DatasetError
from jobs.result_row import RESULT_COLUMNS
from vllm_mlx.json_record import whole_text

_MANIFEST_KEYS: Mapping[str, type] = {
    "run_id": str,
    "model": str,
    "rows": int,
    "shards": int,
    "columns": dict,
}


class DatasetPaths:
    """The paths of one dataset folder."""

    def __init__(self, root: Path) -> None:
        self.data = root / "data"
        self.ignored = root / "_job" / ".gitignore"
        self.manifest = root / "_job" / "manifest.json"
        self.temporary = root / "_job" / "tmp"
        self.unfinished = root / "_job" / "unfinished"
        self.report = root / "_job" / "report.html"
        self.card = root / "README.md"
        self.success = root / "_SUCCESS"

    def part(self, shard: int, shards: int) -> Path:
        return self.data / _part(shard, shards)

    def unfinished_part(self, shard: int, shards: int) -> Path:
        return self.unfinished / _part(shard, shards)


def _part(shard: int, shards: int) -> str:
    return f"train-{shard:05d}-of-{shards:05d}.parquet"


def dataset_names(columns: Iterable[str]) -> dict[str, str]:
    """Return the name in the dataset of each of the input's columns.

    A column keeps its name unless a result column, or an input column before it, has the same
    one; then it is prefixed with `input_` until it stands alone. Upper and lower case count as
    the same, because SQL readers fetch `text` where `"Text"` was asked for.
    """
    inputs = {column.casefold() for column in columns}
    taken = {column.name.casefold() for column in RESULT_COLUMNS}
    names: dict[str, str] = {}
    for column in columns:
        name = own = whole_text(column)
        while name.casefold() in (taken if name == own else taken | inputs):
            name = f"input_{name}"
        names[column] = name
        taken.add(name.casefold())
    return names


def schema(columns: Mapping[str, TypeSpec], parsed: TypeSpec = JSON_TEXT) -> pa.Schema:
    """Return the schema of every part of a run whose input has these columns (name to type).

    Args:
        parsed: the type of the answers that are JSON.

    Raises:
        DatasetError: one has no such type.
    """
    results = {column.name: column.type for column in RESULT_COLUMNS}
    results["parsed"] = arrow_type(parsed)
    fields = [pa.field(name, type) for name, type in results.items()]
    for column, name in dataset_names(columns).items():
        try:
            fields.append(pa.field(name, arrow_type(columns[column])))
        except (ValueError, pa.ArrowException) as error:
            raise DatasetError(f"column {column!r} is of no type: {error}") from None
    return pa.schema(fields)


def schema_of(manifest: Mapping[str, Any]) -> pa.Schema:
    """Return the schema of every part of the run of this manifest."""
    return schema(manifest["columns"], manifest.get("parsed", JSON_TEXT))


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the run's manifest.

    Raises:
        DatasetError: there is none at `path`, or it is not one that this version writes.
    """
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        if not (root := path.parent.parent).exists():
            raise DatasetError(f"there is no folder {root}, so no mlx-batch dataset") from None
        raise DatasetError(f"{path} is missing, so this folder is no mlx-batch dataset") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} can't be read: {error}") from error
    if not isinstance(manifest, dict):
        raise DatasetError(f"{path} holds no JSON object")
    wrong = [key for key, kind in _MANIFEST_KEYS.items() if not isinstance(manifest.get(key), kind)]
    if wrong:
        raise DatasetError(f"{path} lacks, or has with the wrong type: {', '.join(wrong)}")
    return manifest
