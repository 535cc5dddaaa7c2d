"""Where a run's dataset lies, as the producer was told."""

from __future__ import annotations

import re
from pathlib import Path

from jobs.connection import redacted
from vllm_mlx.errors import InvalidRequestError


def output_folder(out: str | Path) -> Path:
    """Return the absolute folder of a dataset.

    Raises:
        InvalidRequestError: it is a URL.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(out)):  # a Path has made one slash of two
        raise InvalidRequestError(
            f"out={redacted(str(out))!r}: should be a folder; mount the bucket, or copy the "
            "dataset there when it is finished"
        )
    return Path(out).expanduser().absolute()
