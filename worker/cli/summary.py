"""What `mlx-batch run` prints when a run has ended: how, how fast, some rows, and what to do."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.text import Text

from jobs.errors import RunHaltedError
from jobs.sources.conversations import CONVERSATIONS
from jobs.wording import clip, clock, counted, incomplete, plain
from worker.cli.advice import advice_of, export_of, is_worth_a_retry
from worker.local.failed_start import RunFailedError
from worker.local.interrupts import RunInterruptedError
from worker.local.run_result import RunResult

_SAID = ("text", "error", "finish_reason")
_ASKED = ("prompt", "messages", CONVERSATIONS)


def with_summary(
    console: Console, run: Callable[[], RunResult], *, has_server: bool, again: str
) -> RunResult:
    """Run, and print how that has ended, also where it raises what has ended it early.

    Args:
        has_server, again: as in `print_summary`.
    """
    try:
        result = run()
    except (RunHaltedError, RunFailedError, RunInterruptedError) as error:
        if error.result is not None:
            print_summary(console, error.result, has_server=has_server, again=again)
        raise
    print_summary(console, result, has_server=has_server)
    return result


def print_summary(
    console: Console, result: RunResult, *, has_server: bool, again: str = ""
) -> None:
    """Print how a run ended, finished or not.

    Args:
        has_server: its server goes on, so that commands can ask it about the run.
        again: the command that goes on with it.
    """
    for line in _lines(result, has_server, again):
        # As it is, however long: a path is copied, and rows may hold anything.
        console.print(line, soft_wrap=True)


def _lines(result: RunResult, has_server: bool, again: str) -> Iterator[Text]:
    for name, row in samples_of(result).items():
        said = row["text"] or row["error"] or ""
        yield Text(f"{name:>8}  {plain(row['id'])}: {clip(said_to(row), 50)}", "dim")
        yield Text(f"          → {clip(said, 58)} ({row['finish_reason']})")
    yield Text(_rows(result), "bold")
    for kind, found in result.errors.items():
        example = f"{plain(found.id)}: {clip(found.error, 160)}"
        yield Text(f"  {found.count:,} {plain(kind)}, such as {example}", "red")
    for line in advice_of(result):
        yield Text(line, "yellow")
    yield from _figures(result)
    yield Text(f"dataset: {result.out}" + ("" if result.is_finished else " (unfinished)"))
    if result.report:
        later = "" if result.report.exists() else " (in a moment)"
        yield Text(f"report: {result.report}{later}")
    yield from _next(result, has_server, again)


def _rows(result: RunResult) -> str:
    said = f"{counted(result.ok, 'row')} answered, {result.error:,} in error"
    said += incomplete(result.incomplete)
    if result.duplicates:
        said += f", {counted(result.duplicates, 'duplicate')} answered once"
    if result.is_finished:
        return said
    return f"{result.rows_done:,} of {counted(result.rows, 'row')} done: {said}"


def _tokens(prompt: int, completion: int) -> str:
    return f"{counted(prompt, 'token')} in, {counted(completion, 'token')} out"


def _figures(result: RunResult) -> Iterator[Text]:
    time = clock(result.seconds) if result.seconds >= 60 else f"{result.seconds:.1f} s"
    tokens = _tokens(result.prompt_tokens, result.completion_tokens)
    if result.session_rows == result.rows_done:
        yield Text(f"{tokens} in {time}")
    else:
        yield Text(f"{tokens} in all")
        tokens = _tokens(result.session_prompt_tokens, result.session_completion_tokens)
        rows = counted(result.session_rows, "row")
        yield Text(f"since it went on: {rows}, {tokens} in {time}")
    speeds = {
        "prefill": result.prefill_tokens_per_second,
        "decode": result.decode_tokens_per_second,
    }
    if told := ", ".join(f"{part} {speed:,.0f}" for part, speed in speeds.items() if speed):
        yield Text(f"tokens/s without loading: {told}")


def _next(result: RunResult, has_server: bool, again: str) -> Iterator[Text]:
    folder = shlex.quote(str(result.out))
    if not result.is_finished:
        yield Text(f"go on:         {again}")
        if result.rows_done and not result.report:
            yield Text(f"look at it:    mlx-batch report {folder}")
        return
    if is_worth_a_retry(result):
        run = result.run_id if has_server else folder
        yield Text(f"errors again:  mlx-batch retry {run} --errors")
    if not result.report:
        yield Text(f"look at it:    mlx-batch report {folder}")
    yield Text(f"other formats: {export_of(result)}")


def samples_of(result: RunResult) -> dict[str, dict[str, Any]]:
    """Return some rows by what they are: the first, the longest, the shortest, one in error."""
    import pyarrow.compute as pc  # for this command only

    if not result.rows_done:
        return {}
    known = ("row", "sample_index", "finish_reason", "completion_tokens")
    table = result.dataset().to_table(columns=list(known))
    failed = pc.fill_null(pc.equal(table["finish_reason"], "error"), False)
    answered = table.filter(pc.invert(failed))
    chosen = {"first": answered.slice(0, 1)}
    if len(answered) > 1:
        by_length = pc.sort_indices(answered, [("completion_tokens", "descending")])
        chosen["longest"] = answered.take(by_length[:1])
        chosen["shortest"] = answered.take(by_length[-1:])
    chosen["error"] = table.filter(failed).slice(0, 1)
    found: dict[str, dict[str, Any]] = {}
    for name, rows in chosen.items():
        if len(rows) and (row := _row(result, rows)) not in found.values():
            found[name] = row
    return found


def _row(result: RunResult, which: pa.Table) -> dict[str, Any]:
    import pyarrow.compute as pc

    dataset = result.dataset()
    inputs = [name for name in _ASKED if name in dataset.schema.names]
    place = which.select(["row", "sample_index"]).to_pylist()[0]
    same = (pc.field("row") == place["row"]) & (pc.field("sample_index") == place["sample_index"])
    rows = dataset.to_table(columns=["id", *_SAID, *inputs], filter=same).to_pylist()
    row: dict[str, Any] = rows[0]
    return row


def said_to(row: Mapping[str, Any]) -> str:
    """Return the prompt, or a chat's last message."""
    if row.get("prompt"):
        return str(row["prompt"])
    try:
        turns: Any = row.get("messages") or row.get(CONVERSATIONS)
        last = (json.loads(turns) if isinstance(turns, str) else turns)[-1]
        content = last["content"] if "content" in last else last["value"]
        if isinstance(content, list):
            return " ".join(part.get("text") or f"[{part['type']}]" for part in content)
        return str(content)
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""
