"""A run that shows its first rows and asks, in a terminal of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from jobs.dataset import verify
from jobs.pause import continue_run
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import DoubleEngine, write_prompts
from worker.cli.exit_codes import ExitCode
from worker.status.status import run_status


def words(folder: Path, model: str) -> list[Any]:
    prompts = write_prompts(folder / "p.jsonl", 12)
    given = ["run", prompts, "--model", model, "--out", folder / "out", "--shard-size", 2]
    return [*given, "--max-tokens", 4, "--temperature", 0, "--max-num-seqs", 1]


def test_nobody_can_be_asked(tmp_path: Path, text_folder: str) -> None:
    told = cli(*words(tmp_path, text_folder), "--preview", 2)

    assert told.exit_code == ExitCode.BAD_INPUT
    assert "--yes" in told.stderr
    assert not (tmp_path / "out").exists()


def test_rows_are_shown_and_no_is_taken_for_an_answer(
    tmp_path: Path, text_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.cli.preview.can_ask", lambda: True)
    given = words(tmp_path, text_folder)

    told = cli(*given, "--preview", 2, input="n\n")

    assert told.exit_code == ExitCode.HALTED, told.output
    assert len(re.findall(r"^r(\d+): prompt \1\n  → .+\(length\)$", told.stdout, re.MULTILINE)) == 2
    assert "Go on with the rest?" in told.stderr
    assert "--resume" in told.stderr

    # What was shown is not answered again: a preview holds once.
    assert cli(*given, "--preview", 2, "--yes", "--resume").exit_code == 0
    found = verify(tmp_path / "out")
    assert (found.complete, found.ok) == (True, 12)


def test_enqueue_and_workers_halt_for_it_too(bench: Bench) -> None:
    spec = bench.enqueue(rows=12, shard_size=2, preview=3)
    bench.burst(DoubleEngine(max_num_seqs=1))

    status = run_status(bench.redis, spec.run_id)
    assert status.halt is not None
    assert status.halt.reason == "preview"
    assert 3 <= status.rows_done < 12
    continue_run(bench.redis, spec.run_id)
    again = DoubleEngine()
    bench.burst(again)
    assert len(again.asked) == 12 - status.rows_done
    assert verify(Path(spec.out)).complete
