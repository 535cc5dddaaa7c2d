"""Rows with the same thing wrong are one line, however long their ids and their text are."""

from __future__ import annotations

import json

from click.testing import CliRunner

from worker.cli.app import main


def test_rows_whose_beginnings_differ_are_one_kind(tmp_path):
    path = tmp_path / "in.jsonl"
    bad = {"prompt": "hello there, my friend", "response_format": {"type": "xml"}}
    path.write_text("\n".join(json.dumps({"id": "v" * n, **bad}) for n in range(1, 31)))
    options = ["--model", "smollm2-135m", "--out", str(tmp_path / "out")]

    said = CliRunner().invoke(main, ["run", str(path), *options])

    assert said.exit_code == 2
    [line] = [line for line in said.stderr.splitlines() if "rows: " in line]
    assert line.strip().startswith("30 rows: response_format: type should be text, ")
    assert line.endswith("lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 20 more")

    said = CliRunner().invoke(main, ["run", str(path), *options, "--limit", "1"])

    assert "  line 1, row 0: response_format: type should be text, " in said.stderr
