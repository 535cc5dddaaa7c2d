"""`OnFinish`: a command of the user's that is told how a run has ended."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.errors import RunHaltedError
from worker.status.progress import RunProgress

logger = logging.getLogger("mlx_batch")


@dataclass(slots=True)
class OnFinish:
    """Runs a command in a shell at the end of a run, with the run's state as JSON on its stdin.

    Attributes:
        command: None runs nothing.
        out: the folder of the dataset.
    """

    command: str | None
    out: Path
    _last: RunProgress | None = field(default=None, init=False)

    def see_and(self, show: Callable[[RunProgress], None]) -> Callable[[RunProgress], None]:
        """Return what takes where the run stands, and shows it."""

        def see(progress: RunProgress) -> None:
            self._last = progress
            show(progress)

        return see

    @contextmanager
    def at_the_end(self) -> Iterator[None]:
        """Tell the command how the body has ended."""
        try:
            yield
        except RunHaltedError as error:
            self._tell("halted", error)
            raise
        except Exception as error:
            self._tell("failed", error)
            raise
        except BaseException as error:  # Ctrl-C, or a signal
            self._tell("interrupted", error)
            raise
        self._tell("finished", None)

    def _tell(self, state: str, error: BaseException | None) -> None:
        if self.command is None:
            return
        said = json.dumps(self._state(state, error))
        ended = subprocess.run(self.command, shell=True, input=said, text=True, check=False)
        if ended.returncode:
            logger.warning("the command of on_finish ended with code %d", ended.returncode)

    def _state(self, state: str, error: BaseException | None) -> dict[str, Any]:
        last = self._last
        return {
            "state": state,
            "run_id": last and last.run_id,
            "out": str(self.out),
            "rows": last and last.rows,
            "rows_done": last.rows_done if last else 0,
            "rows_error": last.rows_error if last else 0,
            "error_types": dict(last.error_types) if last else {},
            "prompt_tokens": last.prompt_tokens if last else 0,
            "completion_tokens": last.completion_tokens if last else 0,
            "elapsed_seconds": last.elapsed_seconds if last else 0.0,
            "error_type": error and type(error).__name__,
            "error": error and str(error),
        }
