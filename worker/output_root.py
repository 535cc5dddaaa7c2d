"""`OutputRoot`: the folder below which a worker writes datasets.

Where a run's dataset goes is in its record, which any client of Redis can forge.
"""

from __future__ import annotations

import os
from pathlib import Path

from jobs.errors import OutputNotAllowedError
from vllm_mlx.errors import InvalidRequestError

_LONGEST_PATH = 4096  # bytes, as Linux has it; `realpath` takes quadratic time


class OutputRoot:
    """Allows output folders that are `path` or below it; None allows every folder.

    Links are resolved now, so that a folder replaced by a link later allows nothing new.

    Raises:
        InvalidRequestError: `path` is not a folder.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = None if path is None else Path(os.path.realpath(path))
        if self._path is not None and not self._path.is_dir():
            raise InvalidRequestError(f"--output-root: {str(path)!r} is not a folder")

    def __str__(self) -> str:
        return "" if self._path is None else str(self._path)

    def check(self, run_id: str, out: str) -> None:
        """Refuse a run whose folder, with links and `..` resolved, may not be written to.

        Raises:
            OutputNotAllowedError: it may not.
        """
        if self._path is None or is_below(out, self._path):
            return
        raise OutputNotAllowedError(
            f"{run_id} wants to write to {out!r:.300}, but this worker writes only below "
            f"{self._path}: start it with --output-root FOLDER, or choose an --out below that"
        )


def is_below(out: str, root: Path) -> bool:
    """Whether a folder, with links and `..` resolved, is this one or below it."""
    try:
        if not out or len(os.fsencode(out)) > _LONGEST_PATH:
            return False
        return Path(os.path.realpath(out)).is_relative_to(root)
    except ValueError:  # a zero byte, or half a character
        return False
