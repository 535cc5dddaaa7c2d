"""`MediaFiles`: images or videos of a folder or a pattern, all asked by one template."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

from jobs.column_types import TypeSpec
from jobs.errors import InputFileError
from jobs.sources.dialect import Dialect
from jobs.sources.files import FilePath
from jobs.sources.formats import Format
from jobs.sources.row_maker import RowMaker
from jobs.sources.rows import RawRow
from jobs.sources.template import COLUMN_OPTIONS, Template
from jobs.sources.templated import Templated
from vllm_mlx.content import MediaKind
from vllm_mlx.errors import InvalidRequestError

_is_folder = os.path.isdir  # which is False where nothing may be looked at, and `is_dir` raises
# What of a folder is meant; a pattern means what it matches.
_SUFFIXES: dict[MediaKind, set[str]] = {
    "image": {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"},
    "video": {".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"}
    | {".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"},
}


class FoundFile(NamedTuple):
    """A file as it was found.

    Attributes:
        name: its path below the folder, which is its row's id.
        size: -1 where a link leads nowhere: its row will say so, for none is left out in silence.
    """

    name: str
    size: int
    changed_ns: int


@dataclass(frozen=True)
class MediaFiles:
    """One row a file, sorted by name.

    Attributes:
        path: the file, folder or pattern as it was given.
        folder: what the names of the files are relative to.
    """

    format: ClassVar = Format.MEDIA
    kind: MediaKind
    path: Path
    template: Template
    folder: Path
    files: tuple[FoundFile, ...]

    @classmethod
    def of(cls, kind: MediaKind, path: FilePath, template: Template) -> MediaFiles:
        """Find the files.

        Raises:
            InputFileError: there are none.
            InvalidRequestError: the template does not say what is asked, or wants columns.
        """
        _check(template, kind)
        if not path:
            raise InputFileError(f"the pattern of {kind}s is empty")
        pattern = Path(path).expanduser()
        folder, files = _find(kind, pattern)
        if not files:
            allowed = ", ".join(sorted(_SUFFIXES[kind]))
            raise InputFileError(
                f"{path}: there is no such {kind}"
                + (f"; of a folder these are taken: {allowed}" if _is_folder(pattern) else "")
            )
        return cls(kind, pattern, template, folder, files)

    @cached_property
    def dialect(self) -> Dialect:
        """What the objects of its rows say."""
        return Templated(self.template)

    def fingerprint(self) -> str:
        """Return a hash of the files' names, sizes and times; none is opened."""
        digest = hashlib.sha256(self.kind.encode() + b"\0")
        for name, size, changed_ns in self.files:
            digest.update(os.fsencode(name) + b"\0%d %d\n" % (size, changed_ns))
        return f"sha256:{digest.hexdigest()}"

    def version(self) -> Hashable:
        return _find(self.kind, self.path)

    def column_types(self) -> dict[str, TypeSpec]:
        return {}

    def rows(self) -> Iterator[RawRow]:
        make = RowMaker(self.template)
        for row, file in enumerate(self.files):
            path = self.folder / file.name
            data = {"id": file.name, self.kind: str(path)}
            named = {"path": file.name, "name": path.name, "folder": path.parent.name}
            yield make(RawRow(row, row + 1, data, None), named)


def _check(template: Template, kind: MediaKind) -> None:
    """Refuse a template that makes nothing of a file."""
    if not template.makes_text:
        raise InvalidRequestError(f"{kind}s need a prompt or messages, which is asked of each file")
    if wrong := [name for name in COLUMN_OPTIONS if getattr(template, name) is not None]:
        raise InvalidRequestError(f"{wrong[0]}: {kind}s of a folder have no columns")
    if template.has_media:
        raise InvalidRequestError(
            f"messages: each file is put before what the user says last, so the chat needs no "
            f"{kind}s of its own"
        )


def _find(kind: MediaKind, pattern: Path) -> tuple[Path, tuple[FoundFile, ...]]:
    """Return the absolute folder that a pattern begins with, and its matches there, sorted."""
    if _is_folder(pattern):
        folder = pattern
        found = _matches("**", folder)
        names = {name for name in found if Path(name).suffix.lower() in _SUFFIXES[kind]}
    elif os.path.lexists(pattern):  # before its characters are taken for a pattern
        folder, names = pattern.parent, {pattern.name}
    else:
        folder, rest = _split(pattern)
        names = _matches(str(rest), folder)
    folder = folder.absolute()
    names = {name for name in names if not _is_folder(folder / name)}
    return folder, tuple(_look(folder, name) for name in sorted(names))


def _matches(pattern: str, folder: Path) -> set[str]:
    # Not Path.glob, which also finds hidden files: the halves of unfinished downloads.
    return set(glob.iglob(pattern, root_dir=folder, recursive=True))  # noqa: PTH207


def _split(pattern: Path) -> tuple[Path, Path]:
    """Return the parts before the first with a wildcard, and the rest."""
    parts = pattern.parts
    fixed = next((at for at, part in enumerate(parts) if glob.escape(part) != part), len(parts) - 1)
    return Path(*parts[:fixed]), Path(*parts[fixed:])


def _look(folder: Path, name: str) -> FoundFile:
    try:
        stat = (folder / name).stat()
    except OSError:
        return FoundFile(name, -1, -1)
    return FoundFile(name, stat.st_size, stat.st_mtime_ns)
