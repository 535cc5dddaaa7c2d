"""`examine`: everything that the doctor looks at, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from worker.doctor.computing import examine_computing
from worker.doctor.finding import Finding
from worker.doctor.hub import examine_hub
from worker.doctor.machine import examine_machine, examine_models
from worker.doctor.packages import examine_packages
from worker.doctor.server import examine_server


def examine(url: str | None, folder: Path) -> Iterator[Finding]:
    """Look at this machine, and yield what is found as it is found.

    Args:
        url: of a Redis; our own server is started for a moment without one.
        folder: where datasets are to be written.
    """
    yield from examine_machine(folder)
    yield from examine_packages()
    yield from examine_computing()
    yield from examine_server(url)
    yield from examine_models()
    yield from examine_hub()
