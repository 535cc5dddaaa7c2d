"""A worker process with the double engine: it starts in half a second and can be killed.

usage: double_worker URL NAME [held] [burst] [grace=SECONDS]
"""

from __future__ import annotations

import logging
import sys

from jobs.connection import connect
from tests.helpers.engines import MODEL, DoubleEngine
from worker.batch_worker import BatchWorker


def main(url: str, name: str, *options: str) -> None:
    logging.basicConfig(level=logging.INFO)
    grace = next((float(o.removeprefix("grace=")) for o in options if "grace=" in o), 10.0)
    engine = DoubleEngine(held="held" in options)
    worker = BatchWorker(MODEL, engine, connection=connect(url), name=name, grace=grace)
    worker.work(burst="burst" in options)


if __name__ == "__main__":
    main(*sys.argv[1:])
