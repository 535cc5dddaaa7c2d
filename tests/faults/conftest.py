"""The faults take minutes, so they run only when asked for: `make faults-short`, `make faults`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import FULL, Stage, Undisturbed, rows_of

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    for item in ours:
        if not os.environ.get("FAULTS"):
            item.add_marker(pytest.mark.skip(reason="set FAULTS=short, or FAULTS=full"))
        elif item.get_closest_marker("full") and not FULL:
            item.add_marker(pytest.mark.skip(reason="only with FAULTS=full"))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    try:
        yield stage.open()
    finally:
        stage.close()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The dataset of so many rows, made by one worker that nobody disturbs."""

    @cache
    def dataset(rows: int) -> dict[str, Any]:
        stage = Stage(tmp_path_factory.mktemp("undisturbed"))
        try:
            stage.open()
            spec = stage.enqueue(rows)
            stage.start("--burst", delay=0)
            stage.finish(spec)
            return rows_of(Path(spec.out))
        finally:
            stage.close()

    return dataset
