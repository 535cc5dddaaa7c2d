"""`MediaPolicy`: what an engine may read and fetch for a prompt, and how much of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.media.host import canonical_domain

MEGA, GIGA = 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class MediaPolicy:
    """A prompt may be somebody else's text: by default nothing is read and nothing is fetched.

    Attributes:
        allowed_paths: folders that local files may be under, once links are resolved; None allows
            every path.
        allowed_domains: hosts that may be fetched from, exactly as written (on any port) or as
            `.example.org` for all below, which leaves out example.org itself; `*` allows every
            public host, None every host, private ones too. No other entry allows a private
            address, not even one that names it.
        max_bytes: most of one file, downloaded or given inline.
        max_pixels: most of one image, or of one frame of a video.
        max_frame_bytes: most that the frames taken from one video hold as pixels.
        max_duration_s: longest video.
        timeout_s: longest time for one download.
        max_redirects: most in one download; each is checked like the first address.
    """

    allowed_paths: tuple[Path, ...] | None = ()
    allowed_domains: tuple[str, ...] | None = ()
    max_bytes: int = 4 * GIGA
    max_pixels: int = 100 * MEGA
    max_frame_bytes: int = 4 * GIGA
    max_duration_s: float = 4 * 3600.0
    timeout_s: float = 60.0
    max_redirects: int = 5

    @classmethod
    def of(cls, paths: Iterable[str | Path], domains: Iterable[str]) -> MediaPolicy:
        """What a command line allows: these folders and these domains, each checked.

        Links are resolved now, so that a folder replaced by a link later allows nothing new.

        Raises:
            InvalidRequestError: a path is no folder, or a domain is not spelled as one or is a
                private address.
        """
        for field, given in (("allowed_paths", paths), ("allowed_domains", domains)):
            if isinstance(given, str):
                raise InvalidRequestError(f"{field}: a list is expected, not the text {given!r}")
        return cls(
            allowed_paths=tuple(map(_folder, paths)),
            allowed_domains=tuple(map(_domain, domains)),
        )


def _folder(path: str | Path) -> Path:
    try:
        resolved = Path(os.path.realpath(path))
        if str(path) and resolved.is_dir():
            return resolved
    except ValueError:  # a zero byte
        pass
    raise InvalidRequestError(f"allowed_paths: {str(path)!r} is not a folder")


def _domain(domain: str) -> str:
    try:
        return canonical_domain(domain)
    except ValueError as error:
        raise InvalidRequestError(
            f"allowed_domains: {domain!r}: {error}. Write a host such as example.org, "
            "`.example.org` for all below it, or `*` for every public host; no scheme, port or path"
        ) from None


UNRESTRICTED = MediaPolicy(allowed_paths=None, allowed_domains=None)
"""For callers who name what is read themselves."""
