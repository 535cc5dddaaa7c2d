"""Write the tables of settings and of columns, and the commands' help, from the code.

    python -m docs.scripts.tables

A block begins with `<!-- settings: CLASS [FIELD ...] -->`, `<!-- columns -->`,
`<!-- exit codes -->` or `<!-- commands -->`, and ends with `<!-- end -->`.
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from docs.scripts.blocks import ROOT, replaced, table
from jobs.dataset.card import columns_table
from jobs.requests import GenerationRequest
from jobs.run_bounds import RunBounds
from jobs.sources import Selection, Template
from vllm_mlx.parameters import settings_of
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.video_params import VideoParams
from worker.cli.app import main
from worker.cli.exit_codes import ExitCode

CLASSES = {
    each.__name__: each
    for each in (
        GenerationRequest,
        RunBounds,
        SamplingParams,
        SchedulerConfig,
        Selection,
        Template,
        VideoParams,
    )
}
SETTINGS = re.compile(r"(<!-- settings: (\w+)([\w ]*) -->\n).*?(<!-- end -->)", re.DOTALL)


def documents() -> list[Path]:
    """Return every document whose tables are kept up to date."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def with_tables(text: str) -> str:
    """Return a document's text with every table as the code has it now."""
    if "<!-- columns -->" in text:
        text = replaced(text, "columns", columns_table({}))
    if "<!-- commands -->" in text:
        text = replaced(text, "commands", _commands())
    if "<!-- exit codes -->" in text:
        rows = [[str(code.value), code.description] for code in ExitCode]
        text = replaced(text, "exit codes", table(["Code", "What has happened"], rows))
    return SETTINGS.sub(lambda found: found[1] + _settings(found[2], found[3]) + found[4], text)


def _settings(class_name: str, names: str) -> str:
    settings = settings_of(CLASSES[class_name])
    chosen = [settings[name] for name in names.split() or settings]
    unset = "by backend" if class_name == SchedulerConfig.__name__ else ""
    rows = [
        [f"`{each.name}`", each.help, each.type, each.range, each.default or unset]
        for each in chosen
    ]
    return table(["Name", "What it does", "Type", "Range", "Default"], rows)


def _commands() -> str:
    helps, above = [], click.Context(main, **main.context_settings)
    for name, command in sorted(main.commands.items()):
        context = click.Context(command, above, f"mlx-batch {name}", terminal_width=96)
        helps.append(f"\n## {name}\n\n```\n{command.get_help(context)}\n```\n")
    return "".join(helps)


if __name__ == "__main__":
    for path in documents():
        path.write_text(with_tables(path.read_text()))
