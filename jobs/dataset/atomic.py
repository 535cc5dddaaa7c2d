"""Atomic writes: a file appears whole or not at all, also after a crash or beside other writers.

Each is written to a temporary file, forced to disk and renamed to its place.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pyarrow as pa

from jobs.errors import DatasetError


def replace_file(
    target: Path,
    data: bytes | pa.Buffer,
    temporary: Path,
    *,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write `target` by way of the folder `temporary`, which lies on the same file system.

    Args:
        check: called when all is written, right before the file appears; what it raises prevents
            that.

    Raises:
        DatasetError: the file can't be written; it is then as it was before.
    """
    with _staged(target, [data], temporary) as staged:
        check()
        staged.replace(target)


def replace_lines(target: Path, lines: Iterable[bytes]) -> None:
    """Write `target` from lines as they come; it appears when the last is written.

    Raises:
        DatasetError: the file can't be written; it is then as it was before.
    """
    with _staged(target, lines, target.parent) as staged:
        staged.replace(target)


def create_file(target: Path, data: bytes, temporary: Path) -> None:
    """Like `replace_file`, but leave `target` alone if it exists: of several writers one wins."""
    with _staged(target, [data], temporary) as staged:
        try:
            os.link(staged, target)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links, exFAT for one
            staged.replace(target)


@contextmanager
def explain_write(path: Path) -> Iterator[None]:
    """Turn the OSError of a write into a DatasetError that names `path` and the reason."""
    try:
        yield
    except OSError as error:
        raise DatasetError(f"{path} can't be written: {error}") from error


@contextmanager
def _staged(target: Path, data: Iterable[bytes | pa.Buffer], folder: Path) -> Iterator[Path]:
    # Not from `tempfile`: its files can be read by their owner only.
    staged = folder / f"{uuid4().hex}-{target.name}"
    with explain_write(target):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with staged.open("xb") as file:
                file.writelines(data)
                file.flush()
                _force(file.fileno())
            yield staged
            _sync_folder(target.parent)
        finally:
            with suppress(OSError):
                staged.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _force(descriptor)
    finally:
        os.close(descriptor)


def _force(descriptor: int) -> None:
    """Wait until all that was written is on the drive.

    On macOS `fsync` leaves it in the drive's own cache, which a power cut loses. Not every file
    system there can do more; those that can't say so with errors of many kinds, and what is wrong
    with a disk `fsync` has reported.
    """
    os.fsync(descriptor)
    if full := getattr(fcntl, "F_FULLFSYNC", None):
        with suppress(OSError):
            fcntl.fcntl(descriptor, full)
