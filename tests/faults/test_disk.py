"""Output folders that can't be written: rows wait in the ledger, and are not generated again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.run_spec import RunSpec
from tests.faults.harness import Stage, Undisturbed, Worker, mlx_batch, prompts
from tests.helpers.engines import MODEL, wait_for

ROWS = 200
BAD_INPUT = 2


def resume(stage: Stage, spec: RunSpec) -> None:
    told = mlx_batch("resume", spec.run_id, url=stage.server.url)
    assert told.returncode == 0, told.stderr


def all_rows_are_answered_and_refused(stage: Stage, worker: Worker, why: str) -> None:
    """The worker lives, says what is wrong and where, and has nothing left to do."""
    stage.wait_for_rows("answered", ROWS)
    wait_for(lambda: why in worker.said)
    assert str(stage.folder) in worker.said
    assert worker.is_alive


def goes_on(stage: Stage, spec: RunSpec, undisturbed: Undisturbed) -> None:
    resume(stage, spec)
    stage.finish(spec)
    stage.check(spec, undisturbed(ROWS))
    assert stage.generated_again() == 0


def test_a_full_disk(stage: Stage, undisturbed: Undisturbed) -> None:
    full = stage.folder / "disk-is-full"
    full.touch()
    spec = stage.enqueue(ROWS)
    worker = stage.start(delay=0.02, FAULT_DISK=full)
    all_rows_are_answered_and_refused(stage, worker, "No space left")
    full.unlink()
    goes_on(stage, spec, undisturbed)


@pytest.mark.full
def test_a_disk_that_is_full_until_all_retries_are_spent(
    stage: Stage, undisturbed: Undisturbed
) -> None:
    """Nobody looked for a long while; another worker has the rows when somebody does."""
    full = stage.folder / "disk-is-full"
    full.touch()
    spec = stage.enqueue(ROWS)
    worker = stage.start(delay=0.02, FAULT_DISK=full)
    told = wait_until_status_tells(stage, spec, "No space left", timeout=150)
    assert str(spec.out) in told
    worker.kill()
    full.unlink()
    stage.start(delay=0.02)
    goes_on(stage, spec, undisturbed)


def wait_until_status_tells(stage: Stage, spec: RunSpec, what: str, timeout: float) -> str:
    told = ""

    def tells() -> bool:
        nonlocal told
        told = mlx_batch("status", spec.run_id, "--json", url=stage.server.url).stdout
        return what in told

    wait_for(tells, timeout)
    return told


def test_a_file_where_the_folder_should_be(stage: Stage, undisturbed: Undisturbed) -> None:
    spec = stage.enqueue(ROWS)
    out = Path(spec.out)
    out.write_text("not a folder")
    worker = stage.start(delay=0.02)
    all_rows_are_answered_and_refused(stage, worker, "can't be written")
    out.unlink()
    goes_on(stage, spec, undisturbed)


def test_a_folder_deleted_in_the_middle_of_the_run(stage: Stage, undisturbed: Undisturbed) -> None:
    """Whole parts are lost and must be made again; rows of the ledger are not."""
    spec = stage.enqueue(ROWS, shard_size=50)
    out = Path(spec.out)
    stage.start(delay=0.1)
    wait_for(lambda: len(list(out.glob("data/*.parquet"))) == 2)
    wait_for(lambda: is_gone(out))
    stage.wait_for_rows("answered", ROWS)

    def resumed_to_the_end() -> bool:
        resume(stage, spec)
        return (out / "_SUCCESS").exists()

    wait_for(resumed_to_the_end, timeout=60)
    stage.finish(spec)
    stage.check(spec, undisturbed(ROWS))
    assert stage.generated_again() <= 2 * 50 + 50, "the parts that were there, or on their way"


def is_gone(folder: Path) -> bool:
    """Delete it; a worker may write into it at the same moment."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_a_data_folder_on_another_file_system(stage: Stage, undisturbed: Undisturbed) -> None:
    """Renaming does not reach it."""
    spec = stage.enqueue(ROWS)
    elsewhere = Path(tempfile.mkdtemp(dir="/dev/shm"))
    if elsewhere.stat().st_dev == stage.folder.stat().st_dev:
        pytest.skip("it is the same file system")
    try:
        out = Path(spec.out)
        out.mkdir()
        (out / "data").symlink_to(elsewhere)
        worker = stage.start(delay=0.02)
        all_rows_are_answered_and_refused(stage, worker, "can't be written")
        (out / "data").unlink()
        goes_on(stage, spec, undisturbed)
    finally:
        shutil.rmtree(elsewhere)


def test_an_output_folder_on_another_file_system_is_as_good(
    stage: Stage, undisturbed: Undisturbed
) -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("needs a second file system")
    elsewhere = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        spec = stage.enqueue(ROWS, out=elsewhere / "out")
        stage.start("--burst", delay=0)
        stage.finish(spec)
        stage.check(spec, undisturbed(ROWS))
    finally:
        shutil.rmtree(elsewhere)


Mount = Callable[..., None]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a small file system at `tmp_path/prompt`, the output folder."""
    target = tmp_path / "prompt"
    target.mkdir()

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(target)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")

    yield mount
    subprocess.run(["umount", "-l", str(target)], capture_output=True)


@pytest.mark.parametrize(
    ("bad", "cure", "why"),
    [
        ("size=16k", "remount,size=8m", "No space left"),
        ("ro", "remount,rw", "Read-only file system"),
    ],
    ids=["full", "read-only"],
)
def test_a_real_file_system(
    stage: Stage, undisturbed: Undisturbed, mount: Mount, bad: str, cure: str, why: str
) -> None:
    mount(bad)
    spec = stage.enqueue(ROWS)
    worker = stage.start(delay=0.02)
    all_rows_are_answered_and_refused(stage, worker, why)
    mount(cure)
    goes_on(stage, spec, undisturbed)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder(stage: Stage, undisturbed: Undisturbed) -> None:
    spec = stage.enqueue(ROWS)
    out = Path(spec.out)
    out.mkdir(mode=0o500)
    worker = stage.start(delay=0.02)
    all_rows_are_answered_and_refused(stage, worker, "Permission denied")
    out.chmod(0o700)
    goes_on(stage, spec, undisturbed)


def test_an_address_is_no_folder(stage: Stage) -> None:
    source = prompts(stage.folder / "prompts.jsonl", 2)
    words = ["enqueue", source, "--model", MODEL, "--out", "s3://bucket/out"]

    told = mlx_batch(*words, url=stage.server.url)

    assert told.returncode == BAD_INPUT
    assert "s3://" in told.stderr
    with stage.server.client() as redis:
        assert redis.keys("mlx-batch:run:*") == []
