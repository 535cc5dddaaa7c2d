"""`benchmarks/planned.py` asks for as many tokens as the workload has."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import planned
from benchmarks.workloads import prefix
from vllm_mlx.models.loading import load_model


def test_rows_have_the_tokens_of_the_workload(tmp_path: Path, text_folder: str) -> None:
    words = planned.words_of(text_folder)
    workload = prefix(3, len(words), 1)
    planned.write(tmp_path / "rows.jsonl", workload, words)

    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]

    encode = load_model(text_folder).encode
    assert [len(encode(row["prompt"])) for row in rows] == [1030] * 3
    assert len({row["prompt"][:4000] for row in rows}) == 1, "the preamble is the same"
    assert {(row["max_tokens"], row["ignore_eos"]) for row in rows} == {(40, True)}
