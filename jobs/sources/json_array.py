"""JSON arrays of rows, cut into their elements: of a large file no more than one is in memory."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from io import BufferedReader

from jobs.errors import InputFileError

_CHUNK = 1 << 16
_LARGEST_ROW = 1 << 28
# Strings are whole tokens, for what stands in them cuts nothing; one without an end is a quote.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)


def is_array(file: BufferedReader) -> bool:
    """Return whether a file's content begins as an array does; reads nothing of it."""
    return file.peek(_CHUNK).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def elements(file: BufferedReader, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield the elements of the array that a file is, as they stand, with the lines they begin on.

    They are not decoded: one that is no JSON spoils no other, as long as its brackets and quotes
    are in pairs.

    Raises:
        InputFileError: the array has no end, or something stands behind it.
    """
    held = file.read(_CHUNK)
    start = at = held.index(b"[") + 1  # of the element in `held`; how far that was looked at
    line, depth = 1 + held.count(b"\n", 0, start), 1
    while depth:
        token = _TOKEN.search(held, at)
        if token is None or token[0] == b'"':
            at = len(held) if token is None else token.start()
            if len(held) - start > _LARGEST_ROW:
                _, first = _stripped(held[start:], line)
                raise InputFileError(
                    f"{name}: the row that begins on line {first} has more than "
                    f"{_LARGEST_ROW >> 20} MiB; is a quote or a bracket missing?"
                )
            # Twice as much each time: what was looked at in vain is looked at once more, not often.
            more = file.read(max(_CHUNK, len(held) - start))
            if not more:
                raise InputFileError(f"{name} is cut off: its JSON array has no end")
            held, at, start = held[start:] + more, at - start, 0
            continue
        at = token.end()
        depth += (token[0] in b"[{") - (token[0] in b"]}")
        if not depth or (depth == 1 and token[0] == b","):
            piece = held[start : token.start()]
            row, first = _stripped(piece, line)
            if row or depth:
                yield first, row
            line, start = line + piece.count(b"\n"), at
    if (held[at:] + file.read(_CHUNK)).strip():
        raise InputFileError(f"{name}, line {line}: something stands behind the end of its array")


def _stripped(piece: bytes, line: int) -> tuple[bytes, int]:
    """Return what stands in a piece that begins on this line, and on which one that begins."""
    row = piece.lstrip()
    return row.rstrip(), line + piece.count(b"\n", 0, len(piece) - len(row))
