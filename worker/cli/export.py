"""`export`: a finished dataset in the formats of other programs."""

from __future__ import annotations

import csv
from pathlib import Path

import click

from jobs.export import ExportFormat, export
from jobs.wording import counted
from worker.cli.local_path import LocalPath

_PATH = LocalPath()


@click.command(name="export", short_help="Write FOLDER's rows in another format.")
@click.argument("folder", type=LocalPath(file_okay=False))
@click.option(
    "--format",
    "format_name",
    type=click.Choice([each.value for each in ExportFormat]),
    required=True,
    help="openai: the output and error files of a batch; txt: a file beside each image or video.",
)
@click.option("--out", type=_PATH, help="The file, or the folder of txt; default: beside FOLDER.")
@click.option(
    "--columns",
    metavar="A,B,C",
    help="Of csv and jsonl only these, in this order; default: all. One with a comma in its name "
    "stands in double quotes: 'id,\"a, b\"'.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
def export_command(
    folder: Path, format_name: str, out: Path | None, columns: str | None, overwrite: bool
) -> None:
    """Write the rows of a finished dataset in another format; FOLDER stays as it is."""
    format = ExportFormat(format_name)
    names = None if columns is None else next(csv.reader([columns]), [])
    for written in export(folder, format, out, columns=names, overwrite=overwrite):
        thing = "file" if format is ExportFormat.TXT else "row"
        click.echo(f"{counted(written.rows, thing)}: {written.path}")
