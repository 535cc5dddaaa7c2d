"""`export`: one finished dataset, written in another format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from jobs.dataset.atomic import explain_write, replace_lines
from jobs.errors import OutputTakenError
from jobs.export.batch_output import answered, failed
from jobs.export.finished import Finished
from jobs.export.sidecars import sidecars
from jobs.export.tables import csv_lines, json_lines
from jobs.output_folder import refuse_address
from vllm_mlx.errors import InvalidRequestError


class ExportFormat(StrEnum):
    """What a dataset can be written as."""

    OPENAI = "openai"
    JSONL = "jsonl"
    CSV = "csv"
    TXT = "txt"


class Exported(NamedTuple):
    """What was written: a file and its rows, or the folder of so many sidecars."""

    path: Path
    rows: int


def export(
    root: Path,
    format: ExportFormat,
    out: Path | None = None,
    *,
    columns: Sequence[str] | None = None,
    overwrite: bool = False,
) -> list[Exported]:
    """Write a dataset in another format; its own folder stays as it is.

    Args:
        out: the file; by default it lies beside the dataset's folder and is named after it. Of
            sidecars the folder; by default each lies beside its image or video.
        columns: of JSONL and CSV: only these, in this order.
        overwrite: replace files that are there.

    Raises:
        InvalidRequestError: `out` is a URL, or the format or the dataset has no such columns.
        DatasetError: the dataset is not finished or does not suit the format, or a file is there
            already or can't be written.
    """
    refuse_address(out)
    finished = Finished.of(root)
    columns = _columns(finished, format, columns)
    if format is ExportFormat.TXT:
        return [_sidecars(finished, out, overwrite)]
    if format is ExportFormat.OPENAI:
        return _openai(finished, out or _beside(root, "_output.jsonl"), overwrite)
    output = out or _beside(root, f".{format}")
    _refuse_present([output], overwrite)
    lines = csv_lines if format is ExportFormat.CSV else json_lines
    header = int(format is ExportFormat.CSV)
    return [Exported(output, _write(output, lines(finished, columns)) - header)]


def _columns(
    finished: Finished, format: ExportFormat, columns: Sequence[str] | None
) -> Sequence[str]:
    """Return which columns are written."""
    known = finished.column_names
    if columns is None:
        return known
    if format not in (ExportFormat.CSV, ExportFormat.JSONL):
        raise InvalidRequestError(f"columns: not with {format}, only with csv and jsonl")
    for name in columns:
        if name not in known:
            raise InvalidRequestError(
                f"columns: there is no {name!r}; there are {', '.join(known)}"
            )
    return list(dict.fromkeys(columns))


def _refuse_present(targets: Iterable[Path], overwrite: bool) -> None:
    """Make sure that no file is lost.

    Raises:
        OutputTakenError: one is there already.
    """
    for target in targets:
        if target.exists() and not overwrite:
            raise OutputTakenError(
                f"{target} is there already: --overwrite replaces it, --out writes elsewhere"
            )


def _sidecars(finished: Finished, out: Path | None, overwrite: bool) -> Exported:
    targets = sidecars(finished, out)
    _refuse_present(targets.values(), overwrite)
    for row in finished.rows():
        if target := targets.get(row["row"]):
            with explain_write(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            replace_lines(target, [row["text"].strip().encode() + b"\n"])
    return Exported(out or finished.folder, len(targets))


def _openai(finished: Finished, output: Path, overwrite: bool) -> list[Exported]:
    """Write the two files of OpenAI's batches, which has no error file without errors."""
    name = output.stem.removesuffix("_output")
    errors = output.with_name(f"{name}_error{output.suffix}")
    _refuse_present([output, errors], overwrite)
    written = [
        Exported(path, _write(path, lines(finished)))
        for path, lines in ((output, answered), (errors, failed))
    ]
    if not written[1].rows:
        errors.unlink()
    return [each for each in written if each.path.exists()]


def _write(target: Path, lines: Iterator[bytes]) -> int:
    """Write a file; return how many lines it has."""
    count = 0

    def counted() -> Iterator[bytes]:
        nonlocal count
        for line in lines:
            count += 1
            yield line

    replace_lines(target, counted())
    return count


def _beside(root: Path, ending: str) -> Path:
    root = root.absolute()
    return root.with_name(root.name + ending)
