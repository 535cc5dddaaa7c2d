"""From a file to rows, and from a row to its request and its columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ConfigDict, TypeAdapter, ValidationError

from jobs.errors import InputFileError
from jobs.media_names import carried
from jobs.requests import GenerationRequest, RequestId
from jobs.sources import openai, plain
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
    return validated(rows, format, folder, sampling=sampling or SamplingParams.of(), n=n)


def validated(
    rows: Iterator[RawRow], format: Format, folder: Path, *, sampling: SamplingParams, n: int
) -> Iterator[SourceRow]:
    """What these rows stand for, or what is wrong with them; see `read_requests`.

    Args:
        folder: what relative paths of images and videos are relative to.
    """
    return _validated(format, rows, partial(_parsed, format, folder, sampling=sampling, n=n))


def read_raw(path: FilePath, format: Format | None = None) -> Iterator[RawRow]:
    """Read a file's rows without validation: the same rows in the same order, and cheaply.

    Raises:
        InputFileError: as `read_requests` does.
    """
    return _numbered(path, _READERS[_format_of(path, format)](path))


def parse_row(
    format: Format, data: Mapping[str, Any], folder: str | Path | None = None
) -> GenerationRequest:
    """The request that a row's object stands for.

    Args:
        folder: where relative paths of images and videos start; without it they stay.

    Raises:
        InvalidRequestError: naming field, what was given and what is allowed.
    """
    if format == Format.OPENAI:
        request = GenerationRequest.parse(openai.request_fields(data))
    else:
        request = GenerationRequest.parse(plain.request_fields(data))
        if any(part["type"] == "video" for part in request.media):
            plain.check_spelling_beside_video(data)
    return request if folder is None else request.located(folder)


def sample_count(format: Format, data: Mapping[str, Any], default: int) -> int:
    """How many samples a good row's object asks for."""
    given = (data["body"] if format == Format.OPENAI else data).get("n")
    return default if given is None else int(given)


def carried_columns(format: Format, data: Mapping[str, Any]) -> dict[str, Any]:
    """The input's own columns, which go to the dataset beside the output; never raises.

    They are as the row has them, but that long images and videos given inline are left out.
    """
    read = openai.carried_columns if format == Format.OPENAI else plain.carried_columns
    return {name: carried(name, value) for name, value in read(data).items()}


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


_Parsed: TypeAlias = tuple[GenerationRequest, int, None] | tuple[None, int, InvalidRequestError]


def _validated(
    format: Format, rows: Iterator[RawRow], parse: Callable[[dict[str, Any]], _Parsed]
) -> Iterator[SourceRow]:
    ids = RowIds()
    for row, line, data, broken in rows:
        request, samples, error = parse(data) if broken is None else (None, 1, broken)
        own = request.id if request else _own_id(format, data)
        try:
            id = ids.claim(row, own)
        except InvalidRequestError as taken:
            request, samples, error = None, 1, error or _bare(taken)
            id = ids.substitute(row)
        yield SourceRow(row, line, id, data, request, samples, error)


def _parsed(
    format: Format, folder: Path, data: dict[str, Any], sampling: SamplingParams, n: int
) -> _Parsed:
    try:
        request = parse_row(format, data, folder)
        samples = request.samples(n)
        if samples > 1 and request.sampling_params(sampling).greedy:
            raise InvalidRequestError(
                f"n={samples}: with temperature=0 every sample is the same; ask for one, or give "
                "a temperature"
            )
        return request, samples, None
    except InvalidRequestError as error:
        return None, 1, _bare(error)


def _bare(error: InvalidRequestError) -> InvalidRequestError:
    # A caller may keep many of these, and a raised one keeps its frames and its cause alive.
    return InvalidRequestError(str(error))


_ID: TypeAdapter[str] = TypeAdapter(RequestId, config=ConfigDict(strict=True))


def _own_id(format: Format, data: Mapping[str, Any]) -> str | None:
    """The id of a bad row, if it has a usable one."""
    try:
        return _ID.validate_python(data.get("custom_id" if format == Format.OPENAI else "id"))
    except ValidationError:
        return None
