"""`Timer`: when a repeated task is due."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(slots=True)
class Timer:
    """Is due at once, and again `seconds` after each restart.

    Attributes:
        due_at: by `time.monotonic()`.
    """

    seconds: float
    due_at: float = 0.0

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self.due_at

    def restart(self) -> None:
        self.due_at = time.monotonic() + self.seconds
