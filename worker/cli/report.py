"""`report`: a page about a dataset, to look at it in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from worker.cli.options import media_options
from worker.local.run_settings import media_policy_from


@click.command(name="report", short_help="Write a page about FOLDER: figures, charts and rows.")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The HTML file; default: _job/report.html in FOLDER.",
)
@click.option(
    "--input-media/--no-input-media",
    default=True,
    show_default=True,
    help="Read images and videos below the input's folder, beside what is allowed.",
)
@media_options
def report_command(folder: Path, out: Path | None, input_media: bool, **options: Any) -> None:
    """Write one HTML file about a dataset, of the parts that are there.

    It needs nothing but itself: figures and charts of all rows, rows to search and filter, and
    pictures of their images and videos, read anew; of what can't be read it says why.
    """
    from worker.report import write_report  # pyarrow's engine, which other commands don't need

    media = media_policy_from(options)
    click.echo(write_report(folder, out, media=media, input_media=input_media))
