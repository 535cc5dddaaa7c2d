"""Where a run's dataset lies, as the producer was told."""

from __future__ import annotations

import re
from pathlib import Path

from jobs.connection import redacted
from vllm_mlx.errors import InvalidRequestError


def output_folder(out: str | Path) -> Path:
    """Return the absolute folder of a dataset, the same from wherever it is named.

    Raises:
        InvalidRequestError: it is a URL.
    """
    refuse_address(out)
    folder = Path(out).expanduser().absolute()
    return folder.resolve() if ".." in folder.parts else folder


def refuse_address(out: str | Path | None) -> None:
    """Refuse a URL where something is to be written: a folder called `s3:` would be made.

    Raises:
        InvalidRequestError: it is one.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(out)):  # a Path has made one slash of two
        said = re.sub(":/+", "://", str(out), count=1)
        raise InvalidRequestError(
            f"out={redacted(said)!r}: should be a path on this machine; mount the bucket, or "
            "copy there what is finished"
        )
