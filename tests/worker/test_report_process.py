"""The report at a run's end: it is written by a process of its own, and never costs the run."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from jobs.dataset import Dataset
from jobs.ledger import Ledger, RunState
from tests.helpers.bench import Bench
from tests.helpers.engines import DoubleEngine, wait_for
from tests.helpers.reported import row, write_dataset
from worker.report_process import ReportProcess


def stand_in(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a script be what writes the report."""
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_a_run_ends_with_its_report(bench: Bench) -> None:
    spec = bench.enqueue(rows=5, shard_size=2)

    bench.burst(DoubleEngine(), report_media=[])

    report = Path(spec.out, "_job", "report.html").read_text()
    assert "All 5 rows." in report
    assert "Unfinished" not in report


def test_without_it_none_is_written(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2)

    bench.burst(DoubleEngine())

    assert not Path(spec.out, "_job", "report.html").exists()


def test_one_that_fails_costs_the_run_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = bench.enqueue(rows=5, shard_size=2)
    stand_in(bench.folder, "echo mlx-batch: no room left >&2; exit 3", monkeypatch)

    bench.burst(DoubleEngine(), report_media=[])

    assert Dataset(Path(spec.out)).is_whole(3)
    assert Ledger(bench.redis).progress(spec.run_id).state is RunState.FINISHED
    assert f"{spec.out} has no report: mlx-batch: no room left" in caplog.messages


def test_a_reader_that_crashes_costs_the_pictures_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = tmp_path / "calls"
    script = f'echo "$@" >> {calls}; case "$*" in *allowed*) kill -SEGV $$;; esac'
    stand_in(tmp_path, script, monkeypatch)

    ReportProcess(["--allowed-media-path=/clips"]).write(tmp_path / "out")

    first, second = calls.read_text().splitlines()
    assert first == f"{second} --allowed-media-path=/clips"
    assert second.endswith(f"report {tmp_path}/out --no-input-media")
    assert caplog.messages[-1] == f"{tmp_path}/out: its report is tried again without pictures"


def test_one_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in(tmp_path, "exec sleep 60", monkeypatch)
    monkeypatch.setattr("worker.report_process.MOST_SECONDS", 0.2)

    ReportProcess([]).write(tmp_path)

    assert caplog.messages == [f"{tmp_path} has no report: it took more than 0.2 s"]


def test_one_that_nobody_waits_for_goes_on_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in(tmp_path, f"sleep 0.3; echo page > {tmp_path}/page", monkeypatch)

    assert ReportProcess([]).write(tmp_path, patience=0.01)

    assert not (tmp_path / "page").exists()
    wait_for((tmp_path / "page").exists)
    assert caplog.messages == []


def test_none_is_begun_once_it_is_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_dataset(tmp_path / "out", [row(0)])
    process = ReportProcess([])
    process.stop()

    with caplog.at_level(logging.WARNING):
        process.write(root)

    assert not (root / "_job" / "report.html").exists()
    assert caplog.messages == []


def test_a_process_that_cannot_be_started_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))

    ReportProcess([]).write(tmp_path)

    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path} has no report: [Errno 2]")
