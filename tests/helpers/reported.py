"""Datasets to report on, as workers write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from jobs.dataset import Dataset
from jobs.result_row import ResultRow
from vllm_mlx.outputs import GenerationOutput

HOSTILE = '</script><img src=x onerror="window.hit=1"><script>window.hit=2</script>'
STARTED = datetime(2026, 11, 22, 22)
MODEL = "some-org/some-model"


def answer(position: int, text: str = "fine", **changes: Any) -> GenerationOutput:
    """The answer to row `position`, which has tokens and takes time by its number."""
    given: dict[str, Any] = {
        "prompt_tokens": 10 + position % 7,
        "completion_tokens": 1 + position % 50,
        "finish_reason": "length" if position % 10 == 9 else "stop",
        "model": MODEL,
        "latency_s": 0.5 + position % 4,
    }
    return GenerationOutput(text, **given | changes)


def row(position: int, output: GenerationOutput | None = None, **columns: Any) -> ResultRow:
    """Row `position` of two workers' work, half a second after the one before."""
    return ResultRow(
        id=f"row-{position}",
        row=position,
        output=answer(position) if output is None else output,
        worker="beta" if position % 3 == 2 else "alpha",
        finished_at=STARTED + timedelta(seconds=10 + position / 2),
        columns={"prompt": f"question {position}", **columns},
    )


def write_dataset(
    root: Path,
    rows: Sequence[ResultRow],
    *,
    shards: int = 1,
    parts: Iterable[int] | None = None,
    **manifest: Any,
) -> Path:
    """Write a dataset of these rows, finished if all of its parts are."""
    dataset = Dataset(root)
    per_shard = -(-len(rows) // shards)
    given = {
        "run_id": "run-0123456789ab",
        "model": MODEL,
        "rows": len(rows),
        "shards": shards,
        "columns": {"prompt": "string"},
        "chat": False,
        "input": {"path": str(root.parent / "in.jsonl"), "format": "jsonl", "media": None},
        "sampling": {"max_tokens": 64, "stop": ["</style>"], "seed": None},
        "created_at": "2026-11-22T21:59:00+00:00",
        "versions": {"mlx-batch": "0.1.0"},
    }
    dataset.prepare(given | manifest)
    written = range(shards) if parts is None else parts
    for shard in written:
        dataset.write_part(shard, rows[shard * per_shard : (shard + 1) * per_shard])
    if parts is None:
        dataset.finalize()
    return root


def mixed(root: Path) -> Path:
    """Sixty rows in three parts: labels, errors of two types, and one row that attacks the page."""
    rows = []
    for position in range(60):
        if position % 20 == 3:
            error = ValueError("temperature=9: too hot")
            rows.append(row(position, GenerationOutput.from_error(error, MODEL), topic="heat"))
        elif position == 30:
            error = KeyError(HOSTILE)
            rows.append(row(position, GenerationOutput.from_error(error, MODEL), topic=HOSTILE))
        else:
            label = ("positive", "negative", "neutral")[position % 7 % 3]
            rows.append(row(position, answer(position, label, complete=True), topic="film"))
    hostile = answer(31, HOSTILE, complete=False, finish_reason="length")
    rows[31] = ResultRow(HOSTILE, 31, hostile, worker=HOSTILE, columns={"prompt": HOSTILE})
    return write_dataset(
        root, rows, shards=3, columns={"prompt": "string", "topic": "string"}, model=MODEL
    )
