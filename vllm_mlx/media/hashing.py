"""`content_hash`: one name for the same pixels looked at in the same way."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 20


def file_hash(path: Path) -> str:
    """Hexadecimal hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)
        ).hexdigest()


def content_hash(pixels: NDArray[Any], *params: object) -> str:
    """Hexadecimal hash of an array and of what is done with it.

    Args:
        pixels: of any shape and dtype; both are part of the hash.
        params: whatever else makes a difference (a model's name, a size); compared by `repr`.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    digest.update(f"{pixels.shape} {pixels.dtype.str} {params!r}\n".encode())
    digest.update(np.ascontiguousarray(pixels).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
