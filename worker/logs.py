"""Where the processes of a worker log, and how much."""

from __future__ import annotations

import logging


def log_to_stderr(verbose: bool) -> None:
    """Log to stderr; with `verbose` also what RQ and the hub's client do."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for name in ("rq.worker", "rq.job", "rq.scheduler", "httpx"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.WARNING)
