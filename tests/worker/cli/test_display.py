"""What `run` shows while it goes on and when it has ended."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from jobs.dataset import Dataset, verify
from jobs.ledger import Counts
from jobs.result_row import ResultRow
from tests.helpers.bench import Bench
from tests.helpers.engines import DoubleEngine, commit_shard
from vllm_mlx.outputs import GenerationOutput
from worker.cli import display
from worker.status import run_status


def test_the_summary_shows_any_text_as_it_is(tmp_path: Path) -> None:
    """Rich would take `[/INST]` for its own markup, and raise."""
    text = "[bold]not bold[/INST] :smile:"
    manifest = {"run_id": "run-1", "model": "m", "rows": 1, "shards": 1}
    dataset = Dataset(tmp_path)
    dataset.prepare(manifest | {"columns": {"prompt": "string"}})
    output = GenerationOutput(text, 1, 5, "stop")
    dataset.write_part(0, [ResultRow("[/id]", 0, output, columns={"prompt": text})])
    console = Console(record=True, width=200, file=io.StringIO())

    display.print_summary(console, tmp_path, verify(tmp_path), seconds=2.0)

    said = console.export_text()
    assert said.count(text) == 2
    assert "[/id]" in said
    assert "1 rows answered, 0 in error; 5 tokens in 2.0 s: 2.5 tokens/s" in said
    assert str(tmp_path) in said


def test_the_summary_of_a_chat_with_media_shows_its_text(tmp_path: Path) -> None:
    manifest = {"run_id": "run-1", "model": "m", "rows": 1, "shards": 1}
    dataset = Dataset(tmp_path)
    dataset.prepare(manifest | {"columns": {"messages": "json"}})
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}]
    columns = {"messages": json.dumps([{"role": "user", "content": parts}])}
    dataset.write_part(0, [ResultRow("0", 0, GenerationOutput("a cat"), columns=columns)])
    console = Console(record=True, width=200, file=io.StringIO())

    display.print_summary(console, tmp_path, verify(tmp_path), seconds=2.0)

    assert "[image] What is it?" in console.export_text()


@pytest.mark.parametrize(
    ("column", "who", "said"), [("messages", "role", "content"), ("conversations", "from", "value")]
)
def test_the_summary_of_a_chat_of_typed_turns_shows_its_last(
    tmp_path: Path, column: str, who: str, said: str
) -> None:
    manifest = {"run_id": "run-1", "model": "m", "rows": 1, "shards": 1}
    dataset = Dataset(tmp_path)
    dataset.prepare(
        manifest | {"columns": {column: {"list": {"struct": {who: "string", said: "string"}}}}}
    )
    turns = [{who: "system", said: "Be brief."}, {who: "user", said: "Why?"}]
    row = ResultRow("0", 0, GenerationOutput("so"), columns={column: turns})
    dataset.write_part(0, [row])
    console = Console(record=True, width=200, file=io.StringIO())

    display.print_summary(console, tmp_path, verify(tmp_path), seconds=2.0)

    assert "0: Why?" in console.export_text()


def test_the_summary_of_rows_whose_prompt_is_no_text(tmp_path: Path) -> None:
    """Bad rows that were skipped may hold anything, so the column may be of numbers."""
    manifest = {"run_id": "run-1", "model": "m", "rows": 1, "shards": 1}
    dataset = Dataset(tmp_path)
    dataset.prepare(manifest | {"columns": {"prompt": "int64"}})
    output = GenerationOutput.from_error(ValueError("a prompt is a string"))
    dataset.write_part(0, [ResultRow("0", 0, output, columns={"prompt": 5})])
    console = Console(width=200, file=io.StringIO())

    display.print_summary(console, tmp_path, verify(tmp_path), seconds=2.0)


def test_progress_is_told_in_lines_where_there_is_no_terminal(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=2)
    console = Console(record=True, width=100, file=io.StringIO())
    view = display.RunDisplay(console)
    with view.bar:
        view.update(run_status(bench.redis, spec.run_id))
        commit_shard(bench.redis, spec.run_id, 0, Counts(ok=1, error=1))
        view._next_line.due_at = 0.0  # five seconds later
        view.update(run_status(bench.redis, spec.run_id))
        view.update(run_status(bench.redis, spec.run_id))
        commit_shard(bench.redis, spec.run_id, 1, Counts(ok=2))
        view._next_line.due_at = 0.0
        view.update(run_status(bench.redis, spec.run_id))

    assert console.export_text().splitlines() == [
        "0/4 rows, loading the model",
        "2/4 rows, loading the model, 1 in error",
        "4/4 rows, 1 in error",  # its workers have ended: no model is loaded any more
    ]


def test_the_model_is_loaded_once_a_worker_has_told_what_it_does(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=2)
    worker = bench.worker(DoubleEngine(held=True))
    worker.admit(wait=False)
    console = Console(record=True, width=100, file=io.StringIO())
    view = display.RunDisplay(console)

    def update() -> None:
        view._next_line.due_at = 0.0  # five seconds later
        view.update(run_status(bench.redis, spec.run_id))

    update()
    worker.tend()
    update()  # no row has ended
    bench.redis.delete(*bench.redis.keys("mlx-batch:live:*"))  # a step of more than 15 s
    update()

    assert console.export_text().splitlines() == [
        "0/4 rows, loading the model",
        "0/4 rows, 0 tok/s",
        "0/4 rows",
    ]
