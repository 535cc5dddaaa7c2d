"""From a file to rows, and from rows to their requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jobs.errors import InputFileError
from jobs.requests import GenerationRequest
from jobs.sources.dialect import Dialect
from jobs.sources.files import FilePath, open_input
from jobs.sources.formats import Format, detect_format
from jobs.sources.ids import RowIds
from jobs.sources.lines import read_jsonl, read_text
from jobs.sources.rows import RawRow, RowOrError, SourceRow
from jobs.sources.tables import read_csv, read_parquet
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.sampling_params import SamplingParams

_READERS: dict[Format, Callable[[FilePath], Iterator[tuple[int, RowOrError]]]] = {
    Format.JSONL: read_jsonl,
    Format.OPENAI: read_jsonl,
    Format.TEXT: read_text,
    Format.CSV: read_csv,
    Format.PARQUET: read_parquet,
}


def read_requests(
    path: FilePath,
    format: Format | None = None,
    *,
    sampling: SamplingParams | None = None,
    n: int = 1,
) -> Iterator[SourceRow]:
    """Read a file's rows and validate each; a bad row is yielded too, with its error.

    Memory does not grow with the file, but for about 100 bytes for each row's own id. Paths of
    images and videos are relative to the file's folder; in the requests they are absolute.

    Args:
        sampling: what holds for a row that does not say it itself.
        n: the same for the number of its samples.

    Raises:
        InputFileError: at once if the file is missing, empty or unreadable; while iterating if
            it turns out to hold no rows, or not to be the table it should be.
    """
    format = _format_of(path, format)
    folder = Path(path).absolute().parent
    rows = read_raw(path, format)
    return validated(rows, format.dialect, folder, sampling=sampling or SamplingParams.of(), n=n)


def validated(
    rows: Iterator[RawRow], dialect: Dialect, folder: Path, *, sampling: SamplingParams, n: int
) -> Iterator[SourceRow]:
    """What these rows stand for, or what is wrong with them; see `read_requests`.

    Args:
        folder: what relative paths of images and videos are relative to.
    """
    ids = RowIds()
    for row, line, data, error in rows:
        request, samples = None, 1
        if error is None:
            try:
                request, samples = _parsed(dialect, folder, data, sampling, n)
            except InvalidRequestError as wrong:
                error = _bare(wrong)
        try:
            id = ids.claim(row, request.id if request else dialect.own_id(data))
        except InvalidRequestError as taken:
            request, samples, error = None, 1, error or _bare(taken)
            id = ids.substitute(row)
        yield SourceRow(row, line, id, data, request, samples, error)


def read_raw(path: FilePath, format: Format | None = None) -> Iterator[RawRow]:
    """Read a file's rows without validation: the same rows in the same order, and cheaply.

    Raises:
        InputFileError: as `read_requests` does.
    """
    return _numbered(path, _READERS[_format_of(path, format)](path))


def _format_of(path: FilePath, format: Format | None) -> Format:
    if format is None:
        return detect_format(path)
    if format == Format.MEDIA:
        raise InputFileError(f"{path}: {str(Format.MEDIA)!r} is no format of a prompt file")
    with open_input(path):
        return Format(format)


def _numbered(path: FilePath, contents: Iterator[tuple[int, RowOrError]]) -> Iterator[RawRow]:
    row = -1
    for row, (line, content) in enumerate(contents):
        if isinstance(content, dict):
            yield RawRow(row, line, content, None)
        else:
            yield RawRow(row, line, {}, content)
    if row < 0:
        raise InputFileError(f"{path} is empty: it holds no rows")


def _parsed(
    dialect: Dialect, folder: Path, data: dict[str, Any], sampling: SamplingParams, n: int
) -> tuple[GenerationRequest, int]:
    request = dialect.request(data).located(folder)
    samples = request.samples(n)
    if samples > 1 and request.sampling_params(sampling).greedy:
        raise InvalidRequestError(
            f"n={samples}: with temperature=0 every sample is the same; ask for one, or give "
            "a temperature"
        )
    return request, samples


def _bare(error: InvalidRequestError) -> InvalidRequestError:
    # A caller may keep many of these, and a raised one keeps its frames and its cause alive.
    return InvalidRequestError(str(error))
