"""`opened`: one image or video, wherever a prompt says it is, as a file to read.

What a text is, the first that fits:

1. `http://`, `https://`, `file:` or `data:` at its very start, in any case: that kind of URL.
2. Any other scheme with `//`, such as `s3://`: an error.
3. A path, if something of that name exists (a dangling link too). `~` is not expanded.
4. Base64, if it decodes strictly (the usual alphabet, padded, without line breaks) and begins like
   an image or a video, or has at least `SHORTEST_BASE64` characters.
5. Otherwise a path, and so an error that names it.

A `Path` is always a path, `bytes` are always the file's own content, never text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from vllm_mlx.errors import MediaError
from vllm_mlx.media.fetch import fetch
from vllm_mlx.media.inline import Inline, from_base64, from_bytes, from_data_url
from vllm_mlx.media.local import readable
from vllm_mlx.media.names import SCHEME, may_be_base64
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.media.temporary import suffix, temporary_folder, write
from vllm_mlx.media.url import printable, safe_name

_FILE_URL = re.compile(
    r"file:(?://(?:localhost)?(?=/)|(?!//))(?P<path>/[^?#]*)", re.ASCII | re.I | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A medium that is a file now.

    Attributes:
        path: to be opened inside the context, and not to be resolved: it may be a link that leads
            to an open file, so that no other can be put in its place.
        name: what the prompt said, safe to display: no user, password or query of a URL, and no
            inline data.
    """

    path: Path
    name: str


def opened(source: str | Path | bytes, policy: MediaPolicy) -> AbstractContextManager[MediaFile]:
    """Find, check and if need be download `source`; what was stored for it is removed on exit.

    Raises:
        MediaNotAllowedError: `policy` doesn't allow this path or host.
        MediaError: it can't be found, read or downloaded, or is too large.
        TypeError: `source` is of another type.
    """
    if isinstance(source, Path):
        return _local(source, policy)
    if isinstance(source, bytes):
        return _stored(from_bytes(source, policy.max_bytes))
    if not isinstance(source, str):
        raise TypeError(f"media: a str, a Path or bytes are expected, not {type(source).__name__}")
    found = SCHEME.match(source)
    if found is not None and found[1] is not None:
        match found[1].lower():
            case "file":
                return _local(_path_of(source), policy)
            case "data":
                return _stored(from_data_url(source, policy.max_bytes))
            case _:
                return _downloaded(source, policy)
    if found is not None:
        raise MediaError(
            f"{found[2].lower()}://…: media come by http, https, file and data URLs, by path or as "
            "base64"
        )
    if not os.path.lexists(source) and may_be_base64(source):
        return _stored(from_base64(source, policy.max_bytes))
    if not source:
        raise MediaError("media: an empty text names no file")
    return _local(Path(source), policy)


def _path_of(url: str) -> Path:
    found = _FILE_URL.fullmatch(url)
    if found is None:
        raise MediaError(
            f"{printable(url)}: a file URL is file:///folder/name, with no other host than "
            "localhost, and with ? and # written as %3F and %23"
        )
    return Path(unquote(found["path"], errors="surrogateescape"))


@contextmanager
def _local(path: Path, policy: MediaPolicy) -> Iterator[MediaFile]:
    name = printable(str(path))
    with readable(path, policy, name) as checked:
        yield MediaFile(checked, name)


@contextmanager
def _stored(inline: Inline) -> Iterator[MediaFile]:
    with temporary_folder() as folder:
        path = folder / f"media{suffix(inline.content_type)}"
        with path.open("wb", buffering=0) as file:
            write(file, inline.data, inline.name)
        yield MediaFile(path, inline.name)


@contextmanager
def _downloaded(url: str, policy: MediaPolicy) -> Iterator[MediaFile]:
    with temporary_folder() as folder:
        partial = folder / "partial"
        with partial.open("wb", buffering=0) as file:
            ending = fetch(url, policy, file)
        yield MediaFile(partial.rename(folder / f"media{ending}"), safe_name(url))
