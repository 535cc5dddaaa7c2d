"""What the terminal shows of a plan."""

from __future__ import annotations

from collections.abc import Callable

from rich.bar import Bar
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from jobs.wording import counted, plain, spelled
from worker.doctor.machine import size_of
from worker.plan.plan import Plan, Range
from worker.plan.prompts import Failures, PlannedPrompts, histogram

BAR = 40
"""Characters of the longest bar."""
_WIDE = (
    "The range is wide since answers may end anywhere up to max_tokens: --measure runs some rows "
    "and narrows it to ±30 % or less."
)
LONGEST = 200
"""Characters of an error that are shown."""


def print_plan(console: Console, plan: Plan) -> None:
    """Print all that was found, in 80 columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(width=14)
    table.add_column(overflow="fold")
    for name, found in _lines(plan).items():
        table.add_row(name, found)
    console.print(table)
    if plan.fails:
        console.print("rows would end in error: mend them, or run without them", style="red")


def _lines(plan: Plan) -> dict[str, RenderableType]:
    prompts = plan.prompts
    lines: dict[str, RenderableType] = {
        "rows": _rows(prompts),
        "would fail": _failures(prompts),
        "duplicates": _duplicates(prompts),
        "prompt tokens": _tokens(prompts),
        "lengths": _histogram(prompts),
        "model": f"{plan.model}, {plan.runner}: {plan.way}",
        "context": f"{plan.context:,} tokens" if plan.context else "no bound",
        "memory": _memory(plan),
    }
    if plan.timings:
        lines["speed"] = _speed(plan)
    if plan.answers:
        reasons = sorted(plan.answers.finish_reasons.items())
        ended = ", ".join(f"{count} {reason}" for reason, count in reasons)
        lines["measured"] = f"{counted(plan.answers.rows, 'row')} run: {ended or 'none needed'}"
        lines["would fail"] = _failures(prompts, plan.answers.errors)
    lines["tokens to come"] = _between(plan.output_tokens, lambda count: f"{count:,.0f}")
    lines["time"] = time = Text(_between(plan.seconds, spelled), style="bold")
    if plan.is_wide and not plan.answers:
        time.append(f"\n{_WIDE}", style="not bold")
    return lines


def _rows(prompts: PlannedPrompts) -> str:
    found = f"{prompts.rows:,}, {prompts.bad_rows:,} of them bad"
    return found if prompts.samples == prompts.rows else f"{found}; {prompts.samples:,} samples"


def _failures(prompts: PlannedPrompts, measured: dict[str, str] | None = None) -> Text:
    if not prompts.failures and not measured:
        return Text("none")
    text = Text(counted(prompts.failing, "row"), style="red" if prompts.failing else "")
    for each in prompts.failures.values():
        text.append(f"\n{counted(each.count, 'row')}, {_places(each)}: {each.error_type}: ")
        text.append(_short(each.example))
    for name, message in (measured or {}).items():
        text.append(f"\n{name} of a row that was run: {_short(message)}", style="red")
    return text


def _places(failures: Failures) -> str:
    numbers = ", ".join(map(str, failures.lines))
    return (
        f"line{'s' * (failures.count > 1)} {numbers}{' …' * (failures.count > len(failures.lines))}"
    )


def _short(message: str) -> str:
    said = plain(message)
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}…"


def _duplicates(prompts: PlannedPrompts) -> str:
    found, copied = prompts.duplicates, prompts.copied
    if not found:
        return "none"
    of_them = "all" if copied == found else f"{copied:,}" if copied else "none"
    return f"{found:,}, {of_them} of which get the answer of the first that asks the same"


def _tokens(prompts: PlannedPrompts) -> str:
    total, computed = prompts.prompt_tokens, prompts.computed_tokens
    if not total:
        return "0"
    return f"{total:,}; shared prefixes save {1 - computed / total:.0%} of them"


def _histogram(prompts: PlannedPrompts) -> RenderableType:
    classes = histogram(prompts.planned)
    most = max((rows for *_, rows in classes), default=0)
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right")
    table.add_column(width=BAR)
    table.add_column(justify="right")
    for least, longest, rows in classes:
        bar = Bar(most, 0, rows, width=BAR)
        table.add_row(f"{least:,} to {longest:,}", bar, f"{rows:,}")
    return table if classes else "no row would run"


def _memory(plan: Plan) -> str:
    memory = plan.memory
    parts = [
        f"weights {size_of(memory.weights)}, key-value caches up to {size_of(memory.kv_cache)}"
    ]
    if memory.row is not None:
        parts.append(
            f"the longest row, {memory.longest:,} tokens, takes {size_of(memory.row)}: "
            f"{memory.slots:,} of {counted(memory.max_num_seqs, 'slot')} at that length"
        )
    return "\n".join(parts)


def _speed(plan: Plan) -> str:
    assert plan.timings is not None
    width, step = max(plan.timings.steps.items())
    found = (
        f"prefill {1 / plan.timings.own:,.0f} tokens/s, decode {width / step:,.0f} tokens/s with "
        f"{counted(width, 'row')}, start {plan.timings.start:.0f} s"
    )
    if plan.timings.spread > 0.3:
        found += (
            f"\nthis machine is busy: two timings of the same differ by {plan.timings.spread:.0%}"
        )
    return found


def _between(found: Range, shown: Callable[[float], str]) -> str:
    low, high = shown(found.low), shown(found.high)
    return low if low == high else f"{low} to {high}"
