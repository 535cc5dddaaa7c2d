"""Where a run's dataset lies, as the producer was told."""

from __future__ import annotations

import re
from pathlib import Path

from jobs.connection import redacted
from vllm_mlx.errors import InvalidRequestError

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
"""The beginning of a URL; a Path has made one slash of two."""


def output_folder(out: str | Path) -> Path:
    """Return the absolute folder of a dataset, the same from wherever it is named.

    Raises:
        InvalidRequestError: it is a URL.
    """
    refuse_address(out)
    folder = Path(out).expanduser().absolute()
    return folder.resolve() if ".." in folder.parts else folder


def refuse_address(given: str | Path | None, name: str = "out") -> None:
    """Refuse a URL where a path is wanted: a folder called `s3:` would be made, or looked for.

    Args:
        name: what the path is called where it is given.

    Raises:
        InvalidRequestError: it is one.
    """
    if found := _ADDRESS.match(str(given)):
        address = f"{found[1]}://{str(given)[found.end() :]}"
        raise InvalidRequestError(
            f"{name}={redacted(address)!r}: should be a path on this machine; mount the bucket, or "
            "copy from it or to it"
        )
