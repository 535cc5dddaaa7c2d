"""What `run` prints when it has ended."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobs.dataset import Dataset, verify
from jobs.errors import RunHaltedError
from jobs.ledger import Counts
from jobs.result_row import ResultRow
from tests.helpers.command_line import cli
from vllm_mlx.errors import ContextLengthError
from vllm_mlx.outputs import GenerationOutput
from worker.cli.summary import print_summary
from worker.local.run_result import ErrorType, RunResult
from worker.status.phase import Phase
from worker.status.progress import RunProgress

ENDED = RunProgress(
    phase=Phase.FINISHED,
    run_id="run-1",
    before=Counts(),
    elapsed_seconds=2.0,
    prefill_tokens_per_second=1234.4,
    decode_tokens_per_second=56.7,
)


def finished(folder: Path, columns: dict[str, Any], *rows: ResultRow, **settings: Any) -> RunResult:
    """A run that has these rows."""
    manifest = {"run_id": "run-1", "model": "m", "rows": len(rows), "shards": 1, **settings}
    dataset = Dataset(folder)
    dataset.prepare(manifest | {"columns": columns})
    dataset.write_part(0, rows)
    return RunResult.of(folder, replace(ENDED, rows=len(rows)))


def summary(result: RunResult, *, has_server: bool = False, again: str = "") -> str:
    console = Console(record=True, width=80, file=io.StringIO())
    print_summary(console, result, has_server=has_server, again=again)
    return console.export_text()


def row(place: int, output: GenerationOutput, prompt: Any = "why?") -> ResultRow:
    return ResultRow(f"id{place}", place, output, columns={"prompt": prompt})


def test_the_summary_of_a_run(tmp_path: Path) -> None:
    result = finished(
        tmp_path,
        {"prompt": "string"},
        row(0, GenerationOutput("one", 3, 5, "stop")),
        row(1, GenerationOutput.from_error(ValueError("not this"))),
        row(2, GenerationOutput("a long one", 3, 9, "stop")),
        row(3, GenerationOutput("two", 3, 2, "length")),
        row(4, GenerationOutput.from_error(KeyError("no"))),
        row(5, GenerationOutput.from_error(ValueError("nor that"))),
    )

    said = summary(result).splitlines()

    assert said == [
        "   first  id0: why?",
        "          → one (stop)",
        " longest  id2: why?",
        "          → a long one (stop)",
        "shortest  id3: why?",
        "          → two (length)",
        "   error  id1: why?",
        "          → not this (error)",
        "3 rows answered, 3 in error",
        "  2 ValueError, such as id1: not this",
        "  1 KeyError, such as id4: 'no'",
        "9 tokens in, 16 tokens out in 2.0 s",
        "tokens/s without loading: prefill 1,234, decode 57",
        f"dataset: {tmp_path}",
        f"errors again:  mlx-batch retry {tmp_path} --errors",
        f"look at it:    mlx-batch report {tmp_path}",
        f"other formats: mlx-batch export {tmp_path} --format jsonl",
    ]
    assert result.errors == {
        "ValueError": ErrorType(2, "id1", "not this"),
        "KeyError": ErrorType(1, "id4", "'no'"),
    }
    assert "mlx-batch retry run-1 --errors" in summary(result, has_server=True)
    long = GenerationOutput.from_error(ContextLengthError("too long"))
    assert "retry" not in summary(finished(tmp_path / "long", {"prompt": "string"}, row(0, long)))


def test_a_duplicate_costs_no_token_and_a_session_has_its_own_numbers(tmp_path: Path) -> None:
    twin = replace(row(2, GenerationOutput("two", 3, 5, "stop")), duplicate_of="id1")
    rows = [row(0, GenerationOutput("one", 3, 5, "stop")), row(1, GenerationOutput("two", 3, 5))]
    finished(tmp_path, {"prompt": "string"}, *rows, twin)
    before = Counts(ok=1, prompt_tokens=3, completion_tokens=5)

    said = summary(RunResult.of(tmp_path, replace(ENDED, rows=3, before=before))).splitlines()

    assert "3 rows answered, 0 in error, 1 duplicate answered once" in said
    assert "6 tokens in, 10 tokens out in all" in said
    assert "since it went on: 2 rows, 3 tokens in, 5 tokens out in 2.0 s" in said
    assert (verify(tmp_path).duplicates, verify(tmp_path).completion_tokens) == (1, 10)
    done = RunResult.of(tmp_path, replace(ENDED, rows=3, before=None))
    assert (done.session_rows, done.session_completion_tokens) == (0, 0)


def test_a_run_that_has_not_begun_to_answer_is_summed_up_too(tmp_path: Path) -> None:
    stopped = replace(ENDED, phase=Phase.STOPPED, rows=9)

    said = summary(RunResult.of(tmp_path, stopped), again="mlx-batch run p --resume")

    assert said.splitlines() == [
        "0 of 9 rows done: 0 rows answered, 0 in error",
        "0 tokens in, 0 tokens out in 2.0 s",
        "tokens/s without loading: prefill 1,234, decode 57",
        f"dataset: {tmp_path} (unfinished)",
        "go on:         mlx-batch run p --resume",
    ]


def test_the_command_that_goes_on_asks_for_no_preview_and_tells_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halted = RunHaltedError("run-1: paused")
    halted.result = RunResult.of(tmp_path, replace(ENDED, phase=Phase.STOPPED, rows=9))

    def halt(*_: object, **__: object) -> RunResult:
        raise halted

    monkeypatch.setattr("worker.cli.app.run_with_preview", halt)
    words = ["p 1.jsonl", "--model", "m", "--out", tmp_path, "--preview", "2", "--overwrite"]

    told = cli("run", *words, "--preview=3", "--yes", "-u", "redis://:secret@localhost/3")

    words = f"'p 1.jsonl' --model m --out {tmp_path} --yes -u 'redis://***@localhost/3'"
    assert f"go on:         mlx-batch run {words} --resume\n" in told.stdout
    assert (told.exit_code, told.stderr) == (5, "mlx-batch: run-1: paused\n")
    words = ["p 1.jsonl", "--model", "m", "--out", tmp_path]
    assert f"go on:         mlx-batch resume {tmp_path}\n" in cli("run", *words).stdout
    told = cli("run", *words, "--on-finish", "cat > f")  # of which its folder knows nothing
    assert f"go on:         mlx-batch resume {tmp_path} --on-finish 'cat > f'\n" in told.stdout


def test_a_result_reads_its_rows_in_the_order_of_the_input(tmp_path: Path) -> None:
    outputs = [GenerationOutput(str(n), 1, n, "stop") for n in range(3)]
    result = finished(tmp_path, {"prompt": "string"}, *map(row, range(3), outputs))

    assert [each["text"] for each in result.read()] == ["0", "1", "2"]
    assert list(result.read("id", "completion_tokens"))[2] == {"id": "id2", "completion_tokens": 2}
    assert result.dataset().count_rows() == 3


@pytest.mark.parametrize(
    ("settings", "column", "constraint", "told"),
    [
        (
            {},
            "prompt",
            {},
            "2 of 3 answers are empty: a prompt is continued as it stands, and",
        ),
        ({"chat": True}, "prompt", {}, None),
        ({}, "question", {}, None),
        ({}, "prompt", {"complete": True}, None),
    ],
)
def test_chats_that_were_sent_as_prompts_are_told(
    tmp_path: Path,
    settings: dict[str, Any],
    column: str,
    constraint: dict[str, Any],
    told: str | None,
) -> None:
    ended = GenerationOutput("", 3, 1, "stop", **constraint)
    rows = [row(0, ended), row(1, ended), row(2, GenerationOutput("two", 3, 2, "stop"))]
    rows = [replace(each, columns={column: "why?"}) for each in rows]

    said = summary(finished(tmp_path, {column: "string"}, *rows, **settings))

    assert (told in said) if told else ("empty" not in said)


@pytest.mark.parametrize(
    ("input", "output"),
    [("openai", "openai"), ("csv", "csv"), ("media", "txt"), ("parquet", "jsonl")],
)
def test_a_format_like_that_of_the_input_is_proposed(
    tmp_path: Path, input: str, output: str
) -> None:
    only = row(0, GenerationOutput("one"))
    result = finished(tmp_path, {"prompt": "string"}, only, input={"format": input})
    assert f"mlx-batch export {tmp_path} --format {output}" in summary(result)


def test_one_row_is_shown_once(tmp_path: Path) -> None:
    said = summary(finished(tmp_path, {"prompt": "string"}, row(0, GenerationOutput("one"))))
    assert said.count("id0") == 1


def test_any_text_is_shown_as_it_is(tmp_path: Path) -> None:
    """Rich would take `[/INST]` for its own markup, and raise."""
    text = "[bold]not bold[/INST] :smile:"
    output = GenerationOutput(text, 1, 5, "stop")

    said = summary(finished(tmp_path, {"prompt": "string"}, row(0, output, text)))

    assert said.count(text) == 2


def test_of_a_chat_with_media_its_text_is_shown(tmp_path: Path) -> None:
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}]
    columns = {"messages": json.dumps([{"role": "user", "content": parts}])}
    chat = ResultRow("0", 0, GenerationOutput("a cat"), columns=columns)

    assert "[image] What is it?" in summary(finished(tmp_path, {"messages": "json"}, chat))


@pytest.mark.parametrize(
    ("column", "who", "said"), [("messages", "role", "content"), ("conversations", "from", "value")]
)
def test_of_a_chat_of_typed_turns_its_last_is_shown(
    tmp_path: Path, column: str, who: str, said: str
) -> None:
    columns = {column: {"list": {"struct": {who: "string", said: "string"}}}}
    turns = [{who: "system", said: "Be brief."}, {who: "user", said: "Why?"}]
    chat = ResultRow("0", 0, GenerationOutput("so"), columns={column: turns})

    assert "0: Why?" in summary(finished(tmp_path, columns, chat))


def test_a_prompt_that_is_no_text(tmp_path: Path) -> None:
    """Bad rows that were skipped may hold anything, so the column may be of numbers."""
    output = GenerationOutput.from_error(ValueError("a prompt is a string"))

    assert "id0: 5" in summary(finished(tmp_path, {"prompt": "int64"}, row(0, output, 5)))
