"""`doctor`: whether this machine has what a worker needs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.cli.exit_codes import ExitCode
from worker.cli.options import url_option
from worker.doctor.finding import Finding

_MARKS = {"ok": ("ok", "green"), "advice": ("!", "yellow"), "failed": ("FAILED", "red")}


@click.command(short_help="Look whether this machine has what a worker needs.")
@url_option("The Redis to look at; default: our own.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def doctor(url: str | None, as_json: bool) -> None:
    """Look at machine, packages, MLX, kernels, Redis and models; say what to do.

    Exits with 8 if something fails. Of what works and could be better it says how, too.
    """
    from worker.doctor.examination import examine

    console = Console(highlight=False)
    found: list[Finding] = []
    for finding in examine(url, Path.cwd()):
        found.append(finding)
        if as_json:
            click.echo(json.dumps(finding.as_dict()))
        else:
            console.print(_line(finding))
    failed = sum(each.state == "failed" for each in found)
    if not as_json:
        console.print(f"{failed} of {len(found)} lines failed" if failed else "a worker can run")
    if failed:
        sys.exit(ExitCode.FAILED)


def _line(finding: Finding) -> Table:
    mark, color = _MARKS[finding.state]
    line = Table.grid(padding=(0, 2))
    line.add_column(width=6)
    line.add_column(width=15)
    line.add_column()
    text = Text(finding.found)
    if finding.advice:
        text.append(f"\n-> {finding.advice}", style=color)
    line.add_row(Text(mark, style=color), finding.name, text)
    return line
