"""A prompt file that is not what it was when its run was enqueued."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.sources import input_of
from tests.faults.harness import Stage, mlx_batch
from tests.helpers.engines import wait_for

BAD_INPUT = 2


@pytest.mark.parametrize("how", ["a row more", "another word", "gone"])
def test_resume_refuses_it(stage: Stage, how: str) -> None:
    spec = stage.enqueue(100, shard_size=50)
    stage.start("--burst", delay=0)
    stage.finish(spec)
    lost = Path(spec.out) / "data" / "train-00001-of-00002.parquet"
    lost.unlink()
    source = Path(spec.input.path)
    if how == "a row more":
        source.write_text(source.read_text() + '{"id": "new", "prompt": "prompt 100"}\n')
    elif how == "another word":
        source.write_text(source.read_text().replace('prompt 3"', 'prompt 4"'))
    else:
        source.unlink()
    before = set(stage.rows("asked"))

    told = mlx_batch("resume", spec.run_id, url=stage.server.url)

    assert told.returncode == BAD_INPUT
    assert str(source) in told.stderr
    if source.exists():
        assert spec.input.fingerprint in told.stderr
        assert input_of(source).fingerprint() in told.stderr
    stage.start("--burst", delay=0).wait(timeout=60)
    assert set(stage.rows("asked")) == before, "nothing was enqueued"
    assert not lost.exists()


def test_a_run_whose_input_is_untouched_goes_on(stage: Stage) -> None:
    spec = stage.enqueue(100, shard_size=50)
    stage.start("--burst", delay=0)
    stage.finish(spec)
    lost = Path(spec.out) / "data" / "train-00001-of-00002.parquet"
    lost.unlink()

    assert mlx_batch("resume", spec.run_id, url=stage.server.url).returncode == 0

    stage.start("--burst", delay=0)
    wait_for(lost.exists)
    assert sorted(stage.rows("begun")) == sorted([*range(100), *range(50, 100)])
