"""`OutputRoot`: the folder below which a worker writes datasets.

Where a run's dataset goes is in its record, which whoever can write to Redis can make up.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import OutputNotAllowedError
from vllm_mlx.errors import InvalidRequestError

_LONGEST_PATH = 4096  # bytes, as Linux has it; `realpath` takes quadratic time


@dataclass(frozen=True, slots=True)
class OutputRoot:
    """Allows output folders that are `path` or below it; None allows every folder.

    Attributes:
        path: with links resolved.
    """

    path: Path | None

    @classmethod
    def of(cls, path: Path | None) -> OutputRoot:
        """What a command line allows.

        Links are resolved now, so that a folder replaced by a link later allows nothing new.

        Raises:
            InvalidRequestError: it is not a folder.
        """
        if path is None:
            return cls(None)
        resolved = Path(os.path.realpath(path))
        if not resolved.is_dir():
            raise InvalidRequestError(f"--output-root: {str(path)!r} is not a folder")
        return cls(resolved)

    def check(self, run_id: str, out: str) -> None:
        """Let only a run pass whose folder, with links and `..` resolved, may be written to.

        Raises:
            OutputNotAllowedError: it may not.
        """
        if self.path is None or _is_below(out, self.path):
            return
        raise OutputNotAllowedError(
            f"{run_id} wants to write to {out!r:.300}, but this worker writes only below "
            f"{self.path}: start it with --output-root FOLDER, or choose an --out below that"
        )


def _is_below(out: str, root: Path) -> bool:
    try:
        if not out or len(os.fsencode(out)) > _LONGEST_PATH:
            return False
        return Path(os.path.realpath(out)).is_relative_to(root)
    except ValueError:  # a zero byte, or half a character
        return False
