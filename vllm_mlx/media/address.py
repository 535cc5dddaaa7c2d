"""`why_not_public`: which IP addresses a job must not make a worker connect to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address

# Our own table, since `is_global` differs between Python's patch releases and lets through what
# carries another address inside. The first match names the kind. Metadata services outside the
# link-local range: AWS over IPv6, Google over IPv6, Azure (a public address by its number).
_KINDS = {
    "metadata": ["169.254.169.254/32", "fd00:ec2::254/128", "fd20:ce::254/128", "168.63.129.16/32"],
    "unspecified": ["0.0.0.0/8", "::/128"],
    "loopback": ["127.0.0.0/8", "::1/128"],
    "private": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"],
    "carrier-grade NAT": ["100.64.0.0/10"],
    "link-local": ["169.254.0.0/16", "fe80::/10"],
    "multicast": ["224.0.0.0/4", "ff00::/8"],
    "IPv4-in-IPv6": [
        "::ffff:0:0/96",  # mapped
        "::/96",  # compatible
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",
        "2002::/16",  # 6to4
        "2001::/32",  # Teredo
    ],
    "reserved": [
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "240.0.0.0/4",
        "2001::/23",
        "2001:db8::/32",
        "3fff::/20",
    ],
}
_REFUSED = [(kind, ip_network(net)) for kind, nets in _KINDS.items() for net in nets]
_UNICAST = ip_network("2000::/3")  # all of IPv6 that IANA has given out as global


def why_not_public(address: Address | str) -> str | None:
    """Return the kind of a non-public address, such as "loopback"; None for a public one.

    Raises:
        ValueError: `address` is not an IP address.
    """
    ip = ip_address(address) if isinstance(address, str) else address
    for kind, network in _REFUSED:
        if ip.version == network.version and ip in network:
            return kind
    if ip.version == 6 and ip not in _UNICAST:
        return "reserved"
    return None if ip.is_global else "reserved"
