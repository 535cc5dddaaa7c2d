"""How text names an image or a video: by URL, by path, or with its bytes as data URL or base64.

Light, since a producer finds by it which names are relative paths.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

LONGEST_PATH = 4096
"""Bytes; Linux takes no more in one call, and macOS less."""

SHORTEST_BASE64 = 64
"""Characters, unless the first bytes tell: many file names are letters and digits only."""

LONGEST_CARRIED = 256
"""Characters of inline media that still go into the dataset."""

SCHEME = re.compile(r"(?:(https?|file|data):|([A-Za-z][A-Za-z0-9+.-]*)://)", re.ASCII | re.I)
"""How a URL begins: with a scheme that media come by, or with another one."""

_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}", re.ASCII)
_HEAD = 24  # characters
# How files begin that Pillow or FFmpeg reads. BMP's two letters only count with the zero bytes
# behind its size.
_BEGINNINGS = (
    rb"\x89PNG",
    rb"\xff\xd8\xff[\xc0-\xfe]",  # JPEG
    rb"GIF8[79]a",
    rb"RIFF",  # WebP, AVI
    rb"BM.{4}\0{4}",
    rb"II[*+]\0|MM\0[*+]|II\0\*|MM\*\0",  # TIFF
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",  # JPEG 2000
    rb"\0\0\x01\0",  # ICO
    rb"P(?:[1-6f]|0CMYK|y[A-Z]+)\s",  # PBM, PGM, PPM, PFM
    rb".{4}(?:ftyp|moov|mdat|wide|free|skip)",  # AVIF, MP4, MOV
    rb"\x1aE\xdf\xa3",  # WebM, Matroska
    rb"G@[\0\x11]\x10",  # MPEG-TS
    rb"\0\0\x01[\xb0\xb3\xba]",  # MPEG
    rb"FLV\x01",
    rb"0&\xb2u\x8ef\xcf\x11",  # ASF
    rb"OggS",
    rb"\x06\x0e\x2b\x34",  # MXF
    rb"DKIF",  # IVF
)
_FILE = re.compile(b"|".join(_BEGINNINGS), re.DOTALL)


def is_base64(text: str) -> bool:
    """Return whether this is strict base64 of an image or a video, by its first bytes.

    So it is no path, wherever the files are.
    """
    return _is_strict(text) and _FILE.match(base64.b64decode(text[:_HEAD])) is not None


def may_be_base64(text: str) -> bool:
    """Return whether this is strict base64 if no file has this name."""
    return (len(text) >= SHORTEST_BASE64 and _is_strict(text)) or is_base64(text)


def _is_strict(text: str) -> bool:
    return len(text) % 4 == 0 and _BASE64.fullmatch(text) is not None


def located(source: str, folder: str | Path) -> str:
    """Return `source`, but a relative path made absolute from `folder`."""
    if SCHEME.match(source) or _is_inline(source):
        return source
    return str(Path(folder) / source)


def abridged(source: str) -> str:
    """Return `source`, but of a long data URL or base64 the type and the size only."""
    if len(source) <= LONGEST_CARRIED:
        return source
    if source[:5].lower() == "data:":
        head, _, payload = source.partition(",")
        size = _decoded_size(payload) if head.lower().endswith(";base64") else len(payload)
        return f"{head[:LONGEST_CARRIED]},… ({size} bytes)"
    if SCHEME.match(source) or not _is_inline(source):
        return source
    return f"base64,… ({_decoded_size(source)} bytes)"


def _is_inline(text: str) -> bool:
    return len(text) > LONGEST_PATH or is_base64(text)


def _decoded_size(payload: str) -> int:
    return len(payload) * 3 // 4 - payload[-2:].count("=")
