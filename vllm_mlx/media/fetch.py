"""`fetch`: one http(s) download within a policy.

On the standard library, since a name must be resolved once, all its addresses checked, and the
socket opened to one of those: HTTP libraries resolve by themselves, again, after any check.
There are no proxies, cookies or credentials here, nor are there any from the environment.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import BadStatusLine, HTTPException, HTTPResponse, IncompleteRead, responses
from typing import BinaryIO, cast

from vllm_mlx.errors import MediaError, MediaNotAllowedError
from vllm_mlx.media import network
from vllm_mlx.media.address import why_not_public
from vllm_mlx.media.host import is_allowed, literal_address
from vllm_mlx.media.network import MAX_HEADER_BYTES, Deadline, HeaderTooLong, Incoming
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.media.temporary import suffix, too_large, write
from vllm_mlx.media.url import MediaURL, printable

_RETRY_AFTER_S = (0.1, 0.4)
_DEAD_AFTER_S = 5.0  # an address, where its name has others
_REDIRECTS = (301, 302, 303, 307, 308)
_PIECE = 1 << 18


class _TransientError(Exception):
    """Something that may go better a second time; the message is complete."""


def fetch(url: str, policy: MediaPolicy, into: BinaryIO) -> str:
    """Download `url` into an empty file; return the suffix that such a file has.

    A failed connection, an answer cut short and a status of 5xx are tried again, twice at most
    and within `policy.timeout_s`, which holds for everything together.

    Raises:
        MediaNotAllowedError: the host, or one it redirects to, may not be fetched from.
        MediaError: the download failed or is outside the policy's limits.
    """
    first = MediaURL.parse(url)
    download = _Download(policy, Deadline(policy.timeout_s), into)
    pauses = iter(_RETRY_AFTER_S)
    while True:
        try:
            return download.follow(first)
        except _TransientError as error:
            pause = next(pauses, None)
            if pause is None or pause >= download.deadline.remaining:
                raise MediaError(str(error)) from error.__cause__
        time.sleep(pause)
        into.seek(0)
        into.truncate()


@dataclass(frozen=True, slots=True)
class _Download:
    policy: MediaPolicy
    deadline: Deadline
    into: BinaryIO

    def follow(self, first: MediaURL) -> str:
        url, what = first, first.name
        for _ in range(self.policy.max_redirects + 1):
            with self._answer(url, what) as response:
                if response.status not in _REDIRECTS:
                    return self._save(url, what, response)
                location = response.headers.get("Location", "")
            url = url.redirected(location)
            what = f"{first.name} (redirected to {url.name})"
        raise MediaError(f"{what}: more than {self.policy.max_redirects} redirects")

    @contextmanager
    def _answer(self, url: MediaURL, what: str) -> Iterator[HTTPResponse]:
        """Yield one request's answer up to the end of its headers."""
        with self._explained_errors(what), self._connection(url, what) as connection:
            connection.settimeout(self.deadline.left())
            connection.sendall(_request(url))
            incoming = Incoming(connection, self.deadline)
            with HTTPResponse(cast("socket.socket", incoming), method="GET") as response:
                response.begin()
                incoming.headers_end()
                yield response

    @contextmanager
    def _connection(self, url: MediaURL, what: str) -> Iterator[socket.socket]:
        addresses = self._addresses(url, what)
        with self._connected(addresses, url.port) as plain:
            if url.scheme == "http":
                yield plain
                return
            plain.settimeout(self.deadline.left())
            # Without ragged ends, a body that just stops is told from one that ends.
            with network.trusted().wrap_socket(
                plain, server_hostname=url.host, suppress_ragged_eofs=False
            ) as encrypted:
                yield encrypted

    def _addresses(self, url: MediaURL, what: str) -> list[str]:
        """Return where to connect to: checked, and not to be resolved again."""
        domains = self.policy.allowed_domains
        literal = literal_address(url.host) is not None
        if domains is not None and literal:  # first: the other message says how to allow it
            _check_public(url.host, [url.host], what)
        if domains is not None and not is_allowed(url.host, domains):
            raise MediaNotAllowedError(
                f"{what}: {url.host} is not a host that may be fetched from here; start the worker "
                f"with --allowed-media-domain {url.host}, or name it in MediaPolicy.allowed_domains"
            )
        if literal:
            return [url.host]
        addresses = network.resolve_within(url.host, url.port, self.deadline)
        if domains is not None:
            _check_public(url.host, addresses, what)
        return addresses

    def _connected(self, addresses: list[str], port: int) -> socket.socket:
        """Return a socket to the first address that answers; a dead one leaves others time."""
        failure = OSError("the name has no address")
        for others, address in zip(reversed(range(len(addresses))), addresses, strict=True):
            left = self.deadline.left()
            share = min(left / (others + 1), _DEAD_AFTER_S) if others else left
            try:
                return network.open_socket(address, port, share)
            except OSError as error:
                failure = error
        raise failure

    def _save(self, url: MediaURL, what: str, response: HTTPResponse) -> str:
        content_type = _checked_headers(what, response)
        declared, most = response.length, self.policy.max_bytes
        if declared is not None and declared > most:
            raise MediaError(too_large(what, declared, most))
        piece, count = memoryview(bytearray(_PIECE)), 0
        while read := response.readinto(piece):
            count += read
            if count > most:
                raise MediaError(too_large(what, f"at least {count:,}", most))
            write(self.into, piece[:read], what)
        if declared is not None and count < declared:
            raise _TransientError(f"{what}: ended after {count:,} of {declared:,} bytes")
        if count == 0:
            raise MediaError(f"{what}: is empty")
        return suffix(content_type, url.path)

    @contextmanager
    def _explained_errors(self, what: str) -> Iterator[None]:
        """Replace the errors of sockets and of `http.client`, of which some quote the URL."""
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise MediaError(f"{what}: TLS certificate refused: {error.verify_message}") from error
        except HeaderTooLong:
            raise MediaError(f"{what}: headers of more than {MAX_HEADER_BYTES:,} bytes") from None
        except (BadStatusLine, IncompleteRead) as error:
            raise _TransientError(f"{what}: the server broke off, or answers no HTTP") from error
        except HTTPException as error:
            raise MediaError(f"{what}: the server's headers are too long or too many") from error
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise _TransientError(f"{what}: the name server doesn't answer") from error
            raise MediaError(f"{what}: there is no such host") from error
        except OSError as error:
            if isinstance(error, TimeoutError) and error.errno is None:
                seconds = self.deadline.seconds
                raise MediaError(
                    f"{what}: not here after {seconds:g} s (MediaPolicy.timeout_s), which hold for "
                    "the whole download"
                ) from error
            reason = error.strerror or str(error) or type(error).__name__
            raise _TransientError(f"{what}: the connection failed: {printable(reason)}") from error


def _check_public(host: str, addresses: list[str], what: str) -> None:
    """Refuse a host with one private address, even among public ones."""
    for kind in filter(None, map(why_not_public, addresses)):
        raise MediaNotAllowedError(
            f"{what}: {host} is a {kind} address, and only public ones are fetched from for a job; "
            "have the file in a folder given with --allowed-media-path instead"
        )


def _request(url: MediaURL) -> bytes:
    return (
        f"GET {url.target} HTTP/1.1\r\nHost: {url.authority}\r\nUser-Agent: mlx-batch\r\n"
        "Accept: image/*, video/*, */*;q=0.1\r\nAccept-Encoding: identity\r\n"
        "Connection: close\r\n\r\n"
    ).encode("ascii")


def _checked_headers(what: str, response: HTTPResponse) -> str:
    """Return the content type of an answer that is used as it comes."""
    status = response.status
    if status != HTTPStatus.OK:
        message = f"{what}: the server answered {status} {responses.get(status, '')}".rstrip()
        raise _TransientError(message) if 500 <= status < 600 else MediaError(message)
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    transfer = response.headers.get("Transfer-Encoding", "").strip().lower()
    if encoding not in ("", "identity") or transfer not in ("", "chunked"):
        # Counting stops a decompression bomb only after it was decompressed.
        raise MediaError(f"{what}: the server compresses what was asked for uncompressed")
    content_type: str = response.headers.get("Content-Type", "")
    content_type = content_type.partition(";")[0].strip().lower()
    if content_type == "text/html":
        raise MediaError(f"{what}: a web page, not an image or a video; give the file's own URL")
    return content_type
