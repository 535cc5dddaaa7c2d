"""The RQ worker that packs many jobs into one engine, and the command line."""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` itself takes as long to import as Ctrl-C may come in

if TYPE_CHECKING:
    from typing import Any

    from worker.local.file_run import run_file

__all__ = ["run_file"]


def __getattr__(name: str) -> Any:
    """Import `run_file` when it is asked for: a worker and its engine's process need none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from worker.local.file_run import run_file

    return run_file
