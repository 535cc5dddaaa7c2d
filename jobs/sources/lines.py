"""Line formats: JSONL (plain and OpenAI-batch) and plain text."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic_core import from_json

from jobs.sources.files import FilePath, open_content, suffix_of
from jobs.sources.json_array import elements, is_array
from jobs.sources.rows import RowOrError
from vllm_mlx.errors import InvalidRequestError, shown


def numbered_lines(file: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, without BOM and line end, with their numbers from 1."""
    for number, line in enumerate(file, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        line = line.rstrip(b"\r\n")
        if line and not line.isspace():
            yield number, line


def read_json(path: FilePath) -> Iterator[tuple[int, RowOrError]]:
    """Yield a JSON object a line, or those of an array in a `.json` file.

    Raises:
        InputFileError: it is an array without an end, or with something behind it.
    """
    with open_content(path) as file:
        if suffix_of(path) == ".json" and is_array(file):
            pieces = elements(file, str(path))
        else:
            pieces = numbered_lines(file)
        for number, piece in pieces:
            yield number, _decode(piece)


def read_text(path: FilePath) -> Iterator[tuple[int, RowOrError]]:
    """Yield a prompt a line."""
    with open_content(path) as file:
        for number, line in numbered_lines(file):
            try:
                prompt = line.decode()
            except UnicodeDecodeError as error:
                yield number, not_utf8(error)
            else:
                if not prompt.isspace():
                    yield number, {"prompt": prompt}


def not_utf8(error: UnicodeDecodeError) -> InvalidRequestError:
    """Return the error of a row with bytes that are not UTF-8."""
    byte = error.object[error.start]
    return InvalidRequestError(f"not UTF-8: byte 0x{byte:02x} at position {error.start + 1}")


def _decode(line: bytes) -> RowOrError:
    try:
        # Strings that become rows are seldom seen twice: only keys are worth caching.
        data: Any = from_json(line, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        return _explain(line, str(error))
    if isinstance(data, dict):
        return data
    return InvalidRequestError(f"a row should be a JSON object, not {shown(data)}")


_PLACE = re.compile(r" at line (\d+) column (\d+)$")
_NOT_FINITE = re.compile(rb"-?(NaN|Infinity)")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def _explain(line: bytes, complaint: str) -> InvalidRequestError:
    """Return an error that explains why a line is not JSON."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return not_utf8(error)
    if not line.lstrip().startswith(b"{"):
        example = '{"prompt": "hello"}'
        return InvalidRequestError(
            f"not JSON: a row is an object such as {example}, not {shown(line.decode())}"
        )
    if "hex escape" in complaint and (escape := _SURROGATE.search(line)):
        return InvalidRequestError(
            f"{escape[0].decode()} is a lone surrogate: half a character, which UTF-8 can't hold"
        )
    place = _PLACE.search(complaint)
    below, column = (int(place[1]) - 1, int(place[2])) if place else (0, 0)
    reason = _PLACE.sub("", complaint).replace("expected ident", "text that is not in quotes")
    if column and (literal := _NOT_FINITE.match(line.split(b"\n")[below], column - 1)):
        reason = f"{literal[0].decode()} is no JSON value"
    where = f", {below} lines below" if below else ""
    return InvalidRequestError(f"not JSON: {reason} at column {column}{where}")
