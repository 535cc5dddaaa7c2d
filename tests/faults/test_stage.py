"""The stage itself: without a fault, nothing is amiss; and what is amiss is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.harness import Stage, Undisturbed, assert_equal_datasets, rows_of
from tests.helpers.engines import wait_for


def test_two_workers_without_a_fault(stage: Stage, undisturbed: Undisturbed) -> None:
    workers = [stage.start(delay=0.1), stage.start(delay=0.1)]
    wait_for(lambda: all(map(stage.is_known, workers)), 60)
    spec = stage.enqueue(200)
    stage.finish(spec)

    stage.check(spec, undisturbed(200))
    assert stage.generated_again() == 0
    assert sorted(stage.rows("answered")) == list(range(200))
    assert all(stage.rows("answered", worker) for worker in workers), "both were at work"
    assert any(row["finish_reason"] == "error" for row in rows_of(Path(spec.out)).values())


def test_another_text_is_another_dataset(undisturbed: Undisturbed) -> None:
    rows = undisturbed(200)
    other = rows | {"r7": rows["r7"] | {"text": "something else"}}
    with pytest.raises(AssertionError):
        assert_equal_datasets(rows, other)
