"""`tail`: the last rows of a run, and those to come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import click
from redis import Redis

from jobs.dataset import Dataset
from jobs.dataset.last_rows import last_rows
from jobs.errors import DatasetError, RunNotFoundError
from jobs.ledger import Ledger, read_row
from jobs.ledger.keys import rows_channel
from jobs.result_row import ResultRow
from jobs.wording import row_as_line
from worker.cli.run_argument import RunPlace, find_run, run_argument, run_option
from worker.cli.status import Watch


@click.command(short_help="Show the last rows of RUN, and those that come.")
@run_argument()
@run_option
@click.option(
    "-n",
    "--rows",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many of the rows that ended last to show first.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a row.")
def tail(url: str | None, run: str, rows: int, as_json: bool) -> None:
    """Show the rows of RUN, a run or its folder, that ended last, and those that come.

    It ends when no more will come: the run is finished, or has failed, or is halted.
    """
    with find_run(url, run) as place:
        if place.connection is None:
            found: Iterator[ResultRow] = iter(last_rows(place.folder, rows))
        else:
            found = _rows(place, place.connection, rows)
        for row in found:
            click.echo(json.dumps(row.cells(), default=str) if as_json else row_as_line(row))


def _rows(place: RunPlace, connection: Redis, count: int) -> Iterator[ResultRow]:
    """Yield the last rows that are recorded, then each that is recorded, until no more come."""
    watch, run_id = Watch(), place.run_id
    with connection.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(rows_channel(run_id))  # first: no row may come between
        status = place.status()
        shown = _last(connection, status.spec.run_id, Path(status.spec.out), count)
        if count and not shown and status.rows_done:
            raise DatasetError(
                f"the {status.rows_done} rows of {run_id} that are done lie in {status.spec.out}, "
                "which is not to be seen from here"
            )
        yield from shown
        seen = {(row.row, row.sample_index) for row in shown}
        while True:
            message = channel.get_message(timeout=0.0 if status.is_asleep else 1.0)
            if message is None:
                try:
                    if watch.is_over([status := place.status()]):
                        return
                except RunNotFoundError:  # it was forgotten meanwhile
                    return
                continue
            row = read_row(message["data"])
            if (row.row, row.sample_index) not in seen:
                yield row


def _last(connection: Redis, run_id: str, out: Path, count: int) -> list[ResultRow]:
    """Return the last rows of those in Redis and those in the folder, as far as it is seen."""
    shards = Ledger(connection).recorded(run_id)
    rows = [row for shard in shards.values() for row in shard.values()]
    dataset = Dataset(out)
    if dataset.is_claimed and dataset.manifest()["run_id"] == run_id:
        known = {(row.row, row.sample_index) for row in rows}
        rows += [row for row in last_rows(out, count) if (row.row, row.sample_index) not in known]
    rows.sort(key=lambda row: row.finished_at or datetime.min)
    return rows[len(rows) - min(count, len(rows)) :]
