"""`MediaPolicy`: what an engine may read and fetch for a prompt, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MEGA, GIGA = 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class MediaPolicy:
    """A prompt may be somebody else's text: by default nothing is read and nothing is fetched.

    Attributes:
        allowed_paths: folders that local files may be under, once links are resolved; None allows
            every path.
        allowed_domains: hosts that may be fetched from, exactly as written or as `.example.org`
            for all below; `*` allows every public host, None every host, private ones too.
        max_bytes: most of one file, downloaded or given inline.
        max_pixels: most of one image, or of one frame of a video.
        max_duration_s: longest video.
        timeout_s: longest time for one download.
        max_redirects: most in one download; each is checked like the first address.
    """

    allowed_paths: tuple[Path, ...] | None = ()
    allowed_domains: tuple[str, ...] | None = ()
    max_bytes: int = 4 * GIGA
    max_pixels: int = 100 * MEGA
    max_duration_s: float = 4 * 3600.0
    timeout_s: float = 60.0
    max_redirects: int = 5


UNRESTRICTED = MediaPolicy(allowed_paths=None, allowed_domains=None)
"""For callers who name what is read themselves."""
