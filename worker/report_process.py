"""`ReportProcess`: writes the report at a run's end, in a process of its own.

A codec may crash on a file, and a page takes memory and time: a worker's rows must not pay for it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Lock, Thread

import click

logger = logging.getLogger("mlx_batch.worker")

MOST_SECONDS = 300.0


def is_report_wanted(given: bool | None) -> bool:
    """Return whether runs end with a report; where it is not said, the environment does."""
    if given is None:
        return bool(click.BOOL.convert(os.environ.get("MLX_BATCH_REPORT", "1"), None, None))
    return given


class ReportProcess:
    """What writes one report; it may be stopped from another thread.

    Args:
        media: flags of `mlx-batch report` that say what may be read for its pictures.
    """

    def __init__(self, media: Sequence[str]) -> None:
        self._media = media
        self._lock = Lock()
        self._process: subprocess.Popen[str] | None = None
        self._is_stopped = False

    def write(self, root: Path, *, patience: float | None = None) -> bool:
        """Write the report of a dataset; where that fails, log why. Never raises.

        Args:
            patience: seconds after which it goes on alone; by default it is ended after
                `MOST_SECONDS`.

        Returns:
            Whether it is written, or will be.
        """
        try:
            code = self._run(root, self._media, patience)
            if code is not None and code < 0 and self._media and not self._is_stopped:
                logger.warning("%s: its report is tried again without pictures", root)
                code = self._run(root, (), patience)
        except Exception as error:  # no memory for a process, for one
            logger.warning("%s has no report: %s", root, error)
            return False
        return not code

    def stop(self) -> None:
        """End the process if it runs, and start none any more."""
        with self._lock:
            self._is_stopped = True
            if self._process is not None:
                self._process.kill()

    def _run(self, root: Path, media: Sequence[str], patience: float | None) -> int | None:
        """Return how the process ended, 0 also where none was to be started; None if it goes on."""
        command = [sys.executable, "-m", "worker.cli", "report", str(root.absolute())]
        with self._lock:
            if self._is_stopped:
                return 0
            self._process = process = subprocess.Popen(
                [*command, "--no-input-media", *media],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE if patience is None else subprocess.DEVNULL,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C is for the worker, which stops it in order
            )
        try:
            _, said = process.communicate(timeout=MOST_SECONDS if patience is None else patience)
        except subprocess.TimeoutExpired:
            if patience is not None:
                Thread(target=process.wait, daemon=True).start()  # no zombie stays in a notebook
                return None
            process.kill()
            process.communicate()
            said = f"it took more than {MOST_SECONDS:g} s"
        if process.returncode and not self._is_stopped:
            last = (said or "").strip().rpartition("\n")[2] or f"exit code {process.returncode}"
            logger.warning("%s has no report: %s", root, last)
        return process.returncode
