"""A result row survives the ledger's JSON and the dataset's Arrow cells."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.dataset.part import encode_part
from jobs.result_row import ResultRow
from vllm_mlx.outputs import GenerationOutput, MediaInfo, TokenLogprob

TOKEN = TokenLogprob(5, "a", -math.inf, (TokenLogprob(6, "b", -0.5), TokenLogprob(7, "c", -4.0)))
SEEN = (
    MediaInfo("video", "ff", 8, 8, 1.5, (0.0, 0.5), truncated=True),
    MediaInfo("image", "", 1, 1),
)
FULL = GenerationOutput(
    *("a", 1, 1, "error", "m", 7, 2, 0.5),
    logprobs=(TOKEN,),
    media=SEEN,
    error_type="MediaError",
    error="no\nfile",
)
EVENING = datetime(2026, 3, 1, 23, 59, 59, 123456)
ROWS = [
    ResultRow("r", 3, FULL, attempts=2, worker="w", sample_index=1, finished_at=EVENING),
    ResultRow("s", 4, GenerationOutput(""), finished_at=datetime(2026, 3, 1)),
    ResultRow("", 0, GenerationOutput("")),
    ResultRow("é", 2**40, GenerationOutput("é", logprobs=(), media=(), seed=2**63 - 1)),
]


@pytest.mark.parametrize("row", ROWS)
def test_it_comes_back_from_json_without_the_inputs_columns(row: ResultRow) -> None:
    assert ResultRow.decode(replace(row, columns={"a": object()}).encode()) == row


def test_it_comes_back_from_arrow() -> None:
    file = encode_part(ROWS, {})
    cells = pq.read_table(pa.BufferReader(file)).to_pylist()

    assert [ResultRow.of_cells(each) for each in cells] == sorted(ROWS, key=lambda row: row.row)


@pytest.mark.parametrize("changes", [{"text": None}, {"row": "x"}, {"finish_reason": "bored"}])
def test_cells_of_no_row_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"output|row"):
        ResultRow.of_cells(ROWS[0].cells() | changes)
