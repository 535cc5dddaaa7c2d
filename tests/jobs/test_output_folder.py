"""A folder of a dataset is the same from wherever it is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.output_folder import output_folder


def test_a_folder_is_the_same_from_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    named = output_folder("answers")

    monkeypatch.chdir(tmp_path / "here")

    assert named == tmp_path / "answers" == output_folder("../answers")
    assert output_folder(tmp_path / "link" / ".." / "answers") == named
    assert output_folder(tmp_path / "link") == tmp_path / "link", "as it was named"
