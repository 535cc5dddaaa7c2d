"""`canonical_host`: the one spelling of a host; and which hosts a list of domains allows."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address

from vllm_mlx.media.address import Address, why_not_public

ANY_PUBLIC = "*"
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def canonical_host(host: str) -> str:
    """Return `host` in lower case ASCII, without a trailing dot; an address in its usual form.

    An IPv6 address is given with or without brackets and comes back without. Resolvers read
    `2130706433`, `0177.0.0.1`, `0x7f.1` and `127.1` as addresses, so what ends like a number and
    is not four plain decimal numbers is refused. So is Unicode that IDNA would turn into other
    letters (full-width digits, `ß`): the result can be written instead.

    Raises:
        ValueError: it is no such host; the message doesn't quote it.
    """
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed or host.count(":") > 1:
        try:
            address = IPv6Address(host[1:-1] if bracketed else host)
        except AddressValueError:
            raise ValueError("not an IPv6 address") from None
        if address.scope_id is not None:
            raise ValueError("an IPv6 address with a zone, which only means something locally")
        return str(address)
    name = _ascii(host).lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("not a host name")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(name))
        except AddressValueError:
            raise ValueError("an address that is not written as four decimal numbers") from None
    return name


def _ascii(host: str) -> str:
    if host.isascii():
        return host
    if len(host) > 253:  # Python's IDNA takes quadratic time
        raise ValueError("not a host name")
    try:
        encoded = host.encode("idna").decode("ascii")
        same = encoded.encode("ascii").decode("idna") == unicodedata.normalize("NFC", host.lower())
    except UnicodeError:
        raise ValueError("not a host name") from None
    if not same:
        raise ValueError("a host name with letters that stand for others; write it in ASCII")
    return encoded


def literal_address(host: str) -> Address | None:
    """Return the address that a canonical host is; None if it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def canonical_domain(domain: str) -> str:
    """Return an entry of `allowed_domains` in its one spelling: a host, `.example.org`, or `*`.

    Raises:
        ValueError: it is none of these, or can never be allowed as an entry.
    """
    if domain == ANY_PUBLIC:
        return domain
    host = canonical_host(domain.removeprefix("."))
    address = literal_address(host)
    if address is not None and domain.startswith("."):
        raise ValueError("an address has no hosts below it")
    kind = why_not_public(address) if address is not None else None
    if host == "localhost" or host.endswith(".localhost"):
        kind = "loopback"
    if kind is not None:
        raise ValueError(
            f"a {kind} address is never fetched from for a job; have the files in a folder that "
            "is allowed instead"
        )
    return f".{host}" if domain.startswith(".") else host


def is_allowed(host: str, domains: Iterable[str]) -> bool:
    """Return whether `domains` name a canonical host; entries that are not valid name nothing."""
    return any(_names(domain, host) for domain in domains)


def _names(domain: str, host: str) -> bool:
    try:
        entry = canonical_domain(domain)
    except ValueError:
        return False
    if entry == ANY_PUBLIC:
        return True
    if entry.startswith("."):
        return host.endswith(entry) and literal_address(host) is None
    return host == entry
