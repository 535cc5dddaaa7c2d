"""Where a worker may write: a run's folder is data out of Redis, and may say anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.dataset import Dataset
from jobs.errors import OutputNotAllowedError
from jobs.queue.job import BatchJob
from tests.helpers.bench import Bench
from tests.helpers.engines import MODEL, DoubleEngine
from vllm_mlx.errors import InvalidRequestError
from worker.output_root import OutputRoot
from worker.status.standing import Standing
from worker.status.status import run_status


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a link to the outside and one to the inside."""
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (root / "out-link").symlink_to(tmp_path / "elsewhere")
    (root / "in-link").symlink_to(root / "below")
    (root / "loop").symlink_to("loop")
    (tmp_path / "root-link").symlink_to(root)
    return root


INSIDE = ["", "below", "new/folder", "below/../new", "in-link/new", "../root-link/new", "a" * 200]
OUTSIDE = ["..", "../elsewhere", "below/../../x", "out-link", "out-link/new", "in-link/../../x"]


@pytest.mark.parametrize("out", INSIDE)
def test_folders_below_the_root_are_allowed(root: Path, out: str) -> None:
    OutputRoot(root).check("run-1", f"{root}/{out}")


@pytest.mark.parametrize("out", [*OUTSIDE, "nul\0byte", "half \ud800 a character", "a/" * 5000])
def test_all_others_are_refused(root: Path, out: str) -> None:
    with pytest.raises(OutputNotAllowedError, match="only below"):
        OutputRoot(root).check("run-1", f"{root}/{out}")


@pytest.mark.parametrize("out", ["", "/", "/etc", "relative", "~"])
def test_refused_wherever_it_is(root: Path, out: str) -> None:
    with pytest.raises(OutputNotAllowedError):
        OutputRoot(root).check("run-1", out)


def test_a_folder_whose_name_begins_like_the_root_is_outside(root: Path) -> None:
    with pytest.raises(OutputNotAllowedError):
        OutputRoot(root).check("run-1", f"{root}-2/out")


def test_a_root_that_becomes_a_link_later_allows_nothing_new(root: Path, tmp_path: Path) -> None:
    allowed = OutputRoot(root / "below")
    (root / "below").rmdir()
    (root / "below").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OutputNotAllowedError):
        allowed.check("run-1", f"{root}/below/out")


def test_a_root_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("file", "none"):
        with pytest.raises(InvalidRequestError, match="is not a folder"):
            OutputRoot(tmp_path / path)


def test_without_a_root_every_folder_is_allowed() -> None:
    OutputRoot(None).check("run-1", "/anywhere")


def test_a_run_elsewhere_is_failed_at_once_and_others_go_on(bench: Bench, root: Path) -> None:
    outside = bench.enqueue(rows=2, shard_size=2, say="outside")
    inside = bench.enqueue(rows=2, shard_size=2, out=root / "out")
    engine = DoubleEngine()
    worker = bench.worker(engine, MODEL, output_root=root)

    worker.admit(wait=False)
    worker.settle()

    job = bench.job(outside, 0)
    assert job.get_status() == "failed", "another try would end the same"
    result = job.latest_result()
    assert result is not None
    for told in (
        outside.run_id,
        str(bench.folder / "outside"),
        str(root),
        "--output-root",
        "--out",
    ):
        assert told in str(result.exc_string)
    assert not (bench.folder / "outside").exists()
    assert engine.prompts == ["prompt 0", "prompt 1"]
    assert bench.status(inside, 0) == "finished"


def test_a_finalize_job_writes_nothing_elsewhere(bench: Bench, root: Path) -> None:
    """The dataset is whole but for its end, and the job comes to another worker."""
    spec = bench.enqueue(rows=2, shard_size=2)
    first = bench.worker(DoubleEngine())
    first.admit(wait=False)
    first.settle()
    assert bench.status(spec) == "queued"
    before = sorted(Path(spec.out).iterdir())

    second = bench.worker(DoubleEngine(), MODEL, output_root=root)
    second.admit(wait=False)
    second.settle()

    result = BatchJob.fetch(
        spec.finalize_id, bench.redis, second.bookkeeper.serializer
    ).latest_result()
    assert result is not None
    assert str(result.exc_string).startswith("OutputNotAllowedError: ")
    assert sorted(Path(spec.out).iterdir()) == before


def test_a_run_whose_folder_another_has_claimed_is_failed_before_a_row_is_generated(
    bench: Bench,
) -> None:
    waits = bench.enqueue(rows=2, shard_size=1)
    taken = bench.enqueue(rows=2, shard_size=2, say="other")
    holder = {**taken.manifest(), "out": waits.out}
    Dataset(Path(waits.out)).prepare(holder)
    engine = DoubleEngine()
    worker = bench.worker(engine)

    worker.admit(wait=False)
    worker.settle()

    assert engine.prompts == ["other 0", "other 1"]
    assert [bench.status(waits, shard) for shard in (0, 1)] == ["failed", "failed"]
    status = run_status(bench.redis, waits.run_id)
    assert status.standing is Standing.FAILED
    (reason,) = status.reasons
    told = (f"holds run {taken.run_id}", f"mlx-batch forget {waits.run_id}", "another --out")
    assert all(each in reason for each in told), reason
