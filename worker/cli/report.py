"""`report`: a page about a dataset, to look at it in a browser."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from redis.exceptions import RedisError

from jobs.dataset import Dataset
from jobs.errors import DatasetError, RunNotFoundError
from jobs.ledger import Ledger
from worker.cli.local_path import LocalPath
from worker.cli.options import media_options
from worker.cli.run_argument import find_run, run_option
from worker.flights.unfinished import write_unfinished
from worker.local.embedded_redis import living_server, own_server
from worker.local.run_settings import media_policy_from


@click.command(name="report", short_help="Write a page about FOLDER: figures, charts and rows.")
@click.argument("folder", type=LocalPath(file_okay=False))
@click.option(
    "--out",
    type=LocalPath(dir_okay=False),
    help="The HTML file; default: _job/report.html in FOLDER.",
)
@click.option(
    "--input-media/--no-input-media",
    default=True,
    show_default=True,
    help="Read images and videos below the input's folder, beside what is allowed.",
)
@media_options
@run_option
def report_command(
    folder: Path, out: Path | None, input_media: bool, url: str | None, **options: Any
) -> None:
    """Write one HTML file about a dataset, finished or not, of the rows that are there.

    It needs nothing but itself: figures and charts of all rows, rows to search and filter, and
    pictures of their images and videos, read anew; of what can't be read it says why.
    """
    from worker.report import write_report  # pyarrow's engine, which other commands don't need

    media = media_policy_from(options)
    _bring_rows(folder, url)
    click.echo(write_report(folder, out, media=media, input_media=input_media))


def _bring_rows(folder: Path, url: str | None) -> None:
    """Bring to the folder what only a Redis knows of a run that is going on, or was killed.

    Raises:
        DatasetError: no row of the run has ended.
        RedisError: the server can't be reached, and nothing is in the folder.
    """
    own, dataset = own_server(folder), Dataset(folder)
    if dataset.is_finished:
        return
    all_here = dataset.layout.unfinished.is_dir() and living_server(own) is None
    if url is None and (all_here or not own.is_dir()):
        return
    try:
        with suppress(RunNotFoundError), find_run(url, str(folder.absolute())) as place:
            if place.connection is not None:
                spec = Ledger(place.connection).spec(place.run_id)
                write_unfinished(place.connection, spec.model_copy(update={"out": str(folder)}))
    except RedisError:
        if not dataset.is_claimed:
            raise
    if not dataset.is_claimed:
        raise DatasetError(f"{folder} holds no rows yet: none of its run has ended")
