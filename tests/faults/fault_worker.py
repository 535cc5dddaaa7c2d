"""`mlx-batch worker` with an engine that needs no model, and with a fault built in.

usage: fault_worker OPTIONS-OF-WORKER; the environment says the rest, besides `PacedEngine`'s:
    FAULT           `kill:POINT` or `stop:POINT`, the signal this process sends itself there
    FAULT_CLOCK     seconds that this process's clock is ahead of the others'
    FAULT_DISK      while this file exists, the disk is full
"""

from __future__ import annotations

import calendar
import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import rq.utils

import worker.engine.supervisor
from jobs.ledger import Halting
from tests.faults.paced_engine import ENGINE
from worker.cli.app import main
from worker.rq.bookkeeper import Bookkeeper


def replace_engine() -> None:
    """Let the engine's process make another one."""
    real = worker.engine.supervisor.SupervisedEngine
    worker.engine.supervisor.SupervisedEngine = partial(real, make=ENGINE)  # type: ignore


def arm(how: str, point: str) -> None:
    """Let this process send itself a signal at `point`, once."""
    signum = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[how]
    armed = [signum]

    def strike() -> None:
        if armed:
            os.kill(os.getpid(), armed.pop())
            time.sleep(0.5)  # the signal may reach another thread first

    when, _, what = point.partition("_")
    steps = {
        "success_of_rq": (Bookkeeper, "succeed"),
        "halt": (Halting, "halt"),
        "park": (Bookkeeper, "forget"),  # what is left of it when the server has done it
    }
    if what in steps:
        _wrap(*steps[what], when, strike)
    else:
        ending = {"rename": ".parquet", "success_file": "_SUCCESS"}[what]
        _wrap(Path, "replace", when, strike, ending)


def _wrap(owner: Any, name: str, when: str, strike: Callable[[], None], target: str = "") -> None:
    """Strike before or after each call, or only those whose argument ends like `target`."""
    original = getattr(owner, name)

    def wrapped(self: Any, first: Any, *args: Any) -> Any:
        hit = not target or str(first).endswith(target)
        if hit and when == "before":
            strike()
        result = original(self, first, *args)
        if hit and when == "after":
            strike()
        return result

    setattr(owner, name, wrapped)


def set_clock(ahead: float) -> None:
    """Move the wall clock of this process, as whoever reads it in RQ or in our code sees it."""
    true_time, true_now = time.time, rq.utils.now

    def now() -> datetime:
        moved: datetime = true_now() + timedelta(seconds=ahead)
        return moved

    clocks: dict[Any, Callable[..., Any]] = {
        true_time: lambda: true_time() + ahead,
        true_now: now,
        rq.utils.current_timestamp: lambda: calendar.timegm(now().utctimetuple()),
    }
    for module in list(sys.modules.values()):
        if module is time or module.__name__.partition(".")[0] in {"jobs", "rq", "worker"}:
            for name, value in list(vars(module).items()):
                if callable(value) and (moved := clocks.get(value)):
                    setattr(module, name, moved)


def fill_disk(while_exists: Path) -> None:
    """Make every write to disk fail as on a full one."""
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if while_exists.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    os.fsync = failing  # type: ignore[assignment]


if __name__ == "__main__":
    replace_engine()
    if fault := os.environ.get("FAULT"):
        arm(*fault.split(":"))
    if ahead := os.environ.get("FAULT_CLOCK"):
        set_clock(float(ahead))
    if marker := os.environ.get("FAULT_DISK"):
        fill_disk(Path(marker))
    main(["worker", *sys.argv[1:]])
