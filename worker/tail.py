"""`mlx-batch tail`: a run's rows as workers record them."""

from __future__ import annotations

from collections.abc import Iterator

from redis import Redis

from jobs.ledger import Ledger, RunState, read_row
from jobs.ledger.keys import rows_channel
from jobs.result_row import ResultRow

LOOK = 1.0  # seconds without a row after which the run may have ended


def rows_as_they_come(connection: Redis, run_id: str) -> Iterator[ResultRow]:
    """Every row that is recorded from now on, until the run is finished.

    Raises:
        RunNotFoundError: the server knows no such run.
        LedgerError: somebody else tells something on the run's channel.
    """
    ledger = Ledger(connection)
    with connection.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(rows_channel(run_id))
        while True:
            message = channel.get_message(timeout=LOOK)
            if message is not None:
                yield read_row(message["data"])
            elif ledger.progress(run_id).state is RunState.FINISHED:
                return
