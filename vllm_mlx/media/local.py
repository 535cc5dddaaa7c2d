"""`readable`: a local file that a policy allows, and that stays the file that was checked."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_mlx.errors import MediaError, MediaNotAllowedError
from vllm_mlx.media.names import LONGEST_PATH
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.media.temporary import suffix, temporary_folder, too_large

# O_NONBLOCK and O_NOCTTY: should a FIFO or a terminal slip in between, opening it does nothing.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC

_PIECE = 1 << 20


@contextmanager
def readable(path: Path, policy: MediaPolicy, name: str) -> Iterator[Path]:
    """Yield a path to the regular file at `path`, valid inside the context.

    Where every path is allowed, it is `path` itself. Otherwise the author of the prompt may be able
    to write below the allowed folders, too, and put a link in place of what was checked. So the
    file is opened once, folder by folder from the allowed one and following no links, and the path
    leads to the open file: on Linux a link into /proc, elsewhere a copy. A hard link to a file
    outside can't be told from the file; only users who may read the file can make one.

    Raises:
        MediaNotAllowedError: with links resolved, `path` is not below an allowed folder. The error
            does not show whether it exists.
        MediaError: it is missing, unreadable, not a regular file, empty or too large.
    """
    _check_spelling(path, name)
    if policy.allowed_paths is None:
        with _explained_errors(name):
            _check(path.stat(), policy, name)
            os.close(os.open(path, _FILE))
        yield path
        return
    with _explained_errors(name):
        fd = _open_below(policy.allowed_paths, path, name)
    try:
        _check(os.fstat(fd), policy, name)
        with temporary_folder() as folder:
            handed = folder / f"media{suffix('', str(path))}"
            with _explained_errors(name):
                _lead(fd, handed, policy, name)
            yield handed
    finally:
        os.close(fd)


def _check_spelling(path: Path, name: str) -> None:
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        raise MediaError(f"{name}: no file's name holds half a character") from None
    if b"\0" in encoded:
        raise MediaError(f"{name}: a path has no zero bytes")
    if len(encoded) > LONGEST_PATH:
        # `realpath` takes quadratic time: minutes for megabytes that were to be base64.
        raise MediaError(f"{name}: too long for a path, and not strictly base64")


def _open_below(roots: tuple[Path, ...], path: Path, name: str) -> int:
    real = Path(os.path.realpath(path))
    for root in map(Path, map(os.path.realpath, roots)):
        if real.is_relative_to(root):
            return _open_unlinked(root, real.relative_to(root).parts, name)
    raise MediaNotAllowedError(
        f"{name}: with links resolved, this is in no folder that may be read here; start the "
        "worker with --allowed-media-path FOLDER, or name the folder in MediaPolicy.allowed_paths"
    )


def _open_unlinked(root: Path, parts: tuple[str, ...], name: str) -> int:
    """Open `root/*parts` where none of the parts is a link (any more)."""
    if not parts:
        raise MediaError(f"{name}: is a folder, not a file; name the files in it")
    folder = os.open(root, _FOLDER)
    try:
        for part in parts[:-1]:
            below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        # Looked at first, since opening a device can have effects.
        _check_kind(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False), name)
        return os.open(parts[-1], _FILE | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)


def _lead(fd: int, handed: Path, policy: MediaPolicy, name: str) -> None:
    """Make `handed` lead to the open file, also for child processes, under its usual suffix."""
    link = Path(f"/proc/{os.getpid()}/fd/{fd}")
    try:
        same = os.path.samestat(link.stat(), os.fstat(fd))
    except OSError:  # no /proc, or not for us
        same = False
    if same:
        handed.symlink_to(link)
        return
    with open(fd, "rb", closefd=False) as source, handed.open("wb") as copy:
        left = policy.max_bytes + 1  # it may grow meanwhile, perhaps for ever
        while piece := source.read(min(left, _PIECE)):
            copy.write(piece)
            left -= len(piece)
    _check(handed.stat(), policy, name)


def _check(found: os.stat_result, policy: MediaPolicy, name: str) -> None:
    _check_kind(found, name)
    if found.st_size == 0:
        # Also all of /proc and much of /sys, where a regular file is none.
        raise MediaError(f"{name}: is empty; check how it was written or downloaded")
    if found.st_size > policy.max_bytes:
        raise MediaError(too_large(name, found.st_size, policy.max_bytes))


def _check_kind(found: os.stat_result, name: str) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise MediaError(f"{name}: is a folder, not a file; name the files in it")
    if not stat.S_ISREG(found.st_mode):
        raise MediaError(f"{name}: is not a regular file but a link, a device, a pipe or a socket")


@contextmanager
def _explained_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise MediaError(f"{name}: no such file; check the path") from error
        if error.errno == errno.ELOOP:
            raise MediaError(f"{name}: a link came in the way while it was opened") from error
        hint = "; check its permissions" if error.errno == errno.EACCES else ""
        raise MediaError(f"{name}: can't be read: {error.strerror}{hint}") from error
