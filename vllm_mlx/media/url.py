"""`MediaURL`: an http(s) URL taken apart once, so that what is checked is what is fetched."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import quote, urljoin

from vllm_mlx.errors import MediaError
from vllm_mlx.media.host import canonical_host

# ASCII: with IGNORECASE alone U+017F, the long s, is an `s`.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?:#.*)?",
    re.ASCII | re.IGNORECASE | re.DOTALL,
)
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]@]*\]|[^:\[\]@]*)(?::(?P<port>[0-9]{0,5}))?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LONGEST_NAME = 200
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))  # all of ASCII that is not percent-encoded


@dataclass(frozen=True, slots=True)
class MediaURL:
    """A checked http(s) URL.

    Attributes:
        scheme: "http" or "https".
        host: canonical; an IPv6 address without brackets.
        port: as given, or the scheme's own.
        target: path and query in ASCII, as the request line has them.
    """

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str) -> MediaURL:
        """Take `url` apart.

        `urllib` drops newlines and reads on after backslashes, others don't: such URLs are
        refused. So are user info (a password in a dataset) and `%` in a host.

        Raises:
            MediaError: it is no http(s) URL.
        """
        name = safe_name(url)
        if _CONTROL.search(url):
            raise MediaError(f"{name}: a URL with control characters or backslashes is not read")
        found = _URL.fullmatch(url)
        if found is None:
            raise MediaError(f"{name}: not an http or https URL")
        if "@" in found["authority"]:
            raise MediaError(f"{name}: a URL with a user or a password is not read; remove it")
        authority = _AUTHORITY.fullmatch(found["authority"])
        if authority is None:
            raise MediaError(f"{name}: neither a host nor a host and a port stand before the path")
        scheme = found["scheme"].lower()
        port = int(authority["port"] or _DEFAULT_PORTS[scheme])
        if not 1 <= port <= 65535:
            raise MediaError(f"{name}: the port is {port}, allowed are 1 to 65535")
        try:
            host = canonical_host(authority["host"])
            target = quote((found["path"] or "/") + (found["query"] or ""), safe=_PRINTABLE)
        except UnicodeError:
            raise MediaError(f"{name}: the URL holds half a character") from None
        except ValueError as error:
            raise MediaError(f"{name}: the host is {error}") from None
        return cls(scheme, host, port, target)

    def redirected(self, location: str) -> MediaURL:
        """Return where a `Location` header of this URL's answer leads; its bytes are Latin-1.

        Raises:
            MediaError: it is no http(s) URL, or it leads from https to http.
        """
        try:
            given = quote(location.strip(), safe=_PRINTABLE, encoding="latin-1")
            url = urljoin(f"{self.scheme}://{self.authority}{self.target}", given)
        except ValueError:
            raise MediaError(f"{self.name}: redirected to what is no URL") from None
        if not url.lower().startswith(("http:", "https:")):
            raise MediaError(f"{self.name}: redirected to what is no http or https URL")
        there = MediaURL.parse(url)
        if self.scheme == "https" and there.scheme == "http":
            raise MediaError(f"{self.name}: redirected from https to http, which is not followed")
        return there

    @property
    def authority(self) -> str:
        """Host and, unless it is the scheme's own, port; as the `Host` header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def name(self) -> str:
        """Safe to display: without the query, which may be a signature."""
        return safe_name(f"{self.scheme}://{self.authority}{self.target}")

    @property
    def path(self) -> str:
        """The path alone, percent-encoded."""
        return self.target.partition("?")[0]


def safe_name(url: str) -> str:
    """Return a URL for messages, even a malformed one: no user info, no query, no fragment."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return f"{url.partition(':')[0].lower()}:…"
    found = re.match(r"(?P<authority>[^/?#\\]*)(?P<path>[^?#]*)(?P<more>.?)", rest, re.DOTALL)
    assert found is not None
    host = found["authority"].rpartition("@")[2]
    if not _AUTHORITY.fullmatch(host):  # perhaps a password with a slash
        return f"{scheme.lower()}://…"
    query = "?…" if found["more"] == "?" else ""
    return printable(f"{scheme.lower()}://{host}{found['path']}{query}")


def printable(text: str) -> str:
    """Return `text` for one line of a message, short and without control characters."""
    half = _LONGEST_NAME // 2
    short = text if len(text) <= _LONGEST_NAME else f"{text[:half]}…{text[-half:]}"
    return "".join("\ufffd" if unicodedata.category(c)[0] == "C" else c for c in short)
