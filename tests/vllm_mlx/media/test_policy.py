from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mlx.errors import InvalidRequestError, MediaError
from vllm_mlx.media import policy as policies
from vllm_mlx.media.address import why_not_public
from vllm_mlx.media.host import canonical_host, is_allowed, literal_address
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.media.url import MediaURL


def test_nothing_is_allowed_by_default() -> None:
    assert MediaPolicy().allowed_paths == MediaPolicy().allowed_domains == ()
    assert MediaPolicy.of([], []) == MediaPolicy()


def test_of_resolves_folders_and_spells_domains_in_one_way(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    policy = MediaPolicy.of(
        [str(tmp_path / "link")],
        ["Example.ORG.", ".Cdn.Example.org", "*", "Bücher.example", "1.1.1.1"],
    )
    assert policy.allowed_paths == (folder.resolve(),)
    assert policy.allowed_domains == (
        "example.org",
        ".cdn.example.org",
        "*",
        "xn--bcher-kva.example",
        "1.1.1.1",
    )


@pytest.mark.parametrize("path", ["missing", "file", "", "zero\0byte", "file/."])
def test_of_refuses_what_is_no_folder(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(InvalidRequestError, match=r"allowed_paths: .* is not a folder"):
        MediaPolicy.of([path], [])


@pytest.mark.parametrize(
    "domain",
    [
        "http://example.org",
        "example.org/photos",
        "example.org:80",
        "user@example.org",
        "*.example.org",
        "..example.org",
        "",
        ".",
        " example.org",
        "exa mple.org",
        "example.org\n",
        "-example.org",
        "a" * 64 + ".org",
        "2130706433",
        ".1.1.1.1",
        "ⓔxample.org",
    ],
)
def test_of_refuses_what_is_no_domain(domain: str) -> None:
    with pytest.raises(
        InvalidRequestError, match=r"(?s)allowed_domains: .*no scheme, port or path"
    ):
        MediaPolicy.of([], [domain])


@pytest.mark.parametrize(
    ("domain", "kind"),
    [
        ("localhost", "loopback"),
        ("LOCALHOST.", "loopback"),
        (".localhost", "loopback"),
        ("a.localhost", "loopback"),
        ("127.0.0.1", "loopback"),
        ("[::1]", "loopback"),
        ("::1", "loopback"),
        ("10.1.2.3", "private"),
        ("169.254.169.254", "metadata"),
    ],
)
def test_of_refuses_private_addresses_and_says_why(domain: str, kind: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"a {kind} address is never fetched from"):
        MediaPolicy.of([], [domain])


def test_of_refuses_one_text_for_a_list() -> None:
    with pytest.raises(InvalidRequestError, match="a list is expected"):
        MediaPolicy.of("/tmp", [])
    with pytest.raises(InvalidRequestError, match="a list is expected"):
        MediaPolicy.of([], "example.org")


@pytest.mark.parametrize(
    ("domains", "host", "allowed"),
    [
        (["example.org"], "example.org", True),
        (["EXAMPLE.org."], "example.org", True),
        (["bücher.example"], "xn--bcher-kva.example", True),
        (["example.org"], "a.example.org", False),
        (["example.org"], "example.org.evil.net", False),
        (["example.org"], "notexample.org", False),
        ([".example.org"], "a.example.org", True),
        ([".example.org"], "a.b.example.org", True),
        ([".example.org"], "example.org", False),
        ([".example.org"], "notexample.org", False),
        (["*"], "anything.net", True),
        (["*"], "1.1.1.1", True),
        (["1.1.1.1"], "1.1.1.1", True),
        ([".1"], "1.1.1.1", False),
        (["localhost"], "localhost", False),
        (["http://example.org"], "example.org", False),
        ([], "example.org", False),
    ],
)
def test_domains_name_hosts_exactly(domains: list[str], host: str, allowed: bool) -> None:
    assert is_allowed(host, domains) is allowed


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("127.255.0.1", "loopback"),
        ("::1", "loopback"),
        ("10.0.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.0.1", "private"),
        ("fd12::1", "private"),
        ("fec0::1", "private"),
        ("100.64.0.1", "carrier-grade NAT"),
        ("100.100.100.200", "carrier-grade NAT"),
        ("169.254.0.1", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("169.254.169.254", "metadata"),
        ("168.63.129.16", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("224.0.0.1", "multicast"),
        ("ff0e::1", "multicast"),
        ("::ffff:8.8.8.8", "IPv4-in-IPv6"),
        ("::ffff:127.0.0.1", "IPv4-in-IPv6"),
        ("::127.0.0.1", "IPv4-in-IPv6"),
        ("64:ff9b::7f00:1", "IPv4-in-IPv6"),
        ("2002:7f00:1::", "IPv4-in-IPv6"),
        ("2001:0:1::", "IPv4-in-IPv6"),
        ("198.18.0.1", "reserved"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("192.0.0.192", "reserved"),
        ("2001:db8::1", "reserved"),
        ("4000::1", "reserved"),
        ("8.8.8.8", None),
        ("172.32.0.1", None),
        ("2606:4700::1111", None),
    ],
)
def test_kinds_of_addresses(address: str, kind: str | None) -> None:
    assert why_not_public(address) == kind


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if not address.is_global or address.is_multicast:
        assert why_not_public(address) is not None


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "017700000001",
        "0x7f000001",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "127.1",
        "127.0.1",
        "127.0.0.1.5",
        "256.0.0.1",
        "127.0.0.01",
        "127.0.0.0x1",
        "0x",
        "foo.0x7f",
        "127.0.0.1..",
        "%31%32%37.0.0.1",
        "127。0。0。1",
        "\uff11\uff12\uff17.0.0.1",
        "①②⑦.0.0.1",
        "ⓛocalhost",
        "faß.example",
        "[::1%25lo]",
        "[::1%lo]",
        "[::1",
        "[1.1.1.1]",
        "[]",
        "::g",
        "",
        ".",
        "a..b",
        "a b",
        "a\tb",
        "a\0b",
        "exa\u00admple.org",
        "\ud800.org",
        "é" * 300,
    ],
)
def test_odd_spellings_of_hosts_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"^(not an? |an |a )"):
        canonical_host(host)


@pytest.mark.parametrize(
    ("host", "canonical"),
    [
        ("127.0.0.1.", "127.0.0.1"),
        ("[::FFFF:127.0.0.1]", "::ffff:7f00:1"),
        ("0:0::1", "::1"),
        ("Example.ORG.", "example.org"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("a_b.example", "a_b.example"),
        ("1.1.1.example", "1.1.1.example"),
    ],
)
def test_one_spelling_of_a_host(host: str, canonical: str) -> None:
    found = canonical_host(host)
    address = literal_address(found)
    assert found == canonical or address == literal_address(canonical)


def _parts(number: int, base: str) -> str:
    return {"d": str(number), "o": f"0{number:o}", "x": hex(number), "X": hex(number).upper()}[base]


@given(
    st.ip_addresses(v=4),
    st.integers(1, 4),
    st.lists(st.sampled_from("doxX"), min_size=4, max_size=4),
)
def test_inet_aton_spellings_are_refused_or_read_alike(
    address: ipaddress.IPv4Address, count: int, bases: list[str]
) -> None:
    """The last of fewer than four numbers fills the bytes that are left."""
    octets = list(address.packed)
    numbers = [*octets[: count - 1], int.from_bytes(bytes(octets[count - 1 :]))]
    spelled = ".".join(_parts(n, b) for n, b in zip(numbers, bases, strict=False))
    try:
        assert canonical_host(spelled) == str(address)
    except ValueError:
        assert spelled != str(address)


@given(st.text(max_size=40))
def test_a_canonical_host_is_harmless_and_stable(text: str) -> None:
    try:
        host = canonical_host(text)
    except ValueError:
        return
    assert host.isascii()
    assert host == host.lower() == canonical_host(host)
    assert not set(host) & set("/@?#%[]\\ ")


@given(
    st.sampled_from(["http://", "HTTPS://", "http:/", "http:", ""]),
    st.text(alphabet=st.sampled_from("a1.:@/\\?#%[]x0é\t\n "), max_size=20),
    st.text(alphabet=st.characters(codec="utf-8"), max_size=10),
)
def test_any_url_is_read_or_a_media_error(scheme: str, middle: str, end: str) -> None:
    try:
        url = MediaURL.parse(scheme + middle + end)
    except MediaError:
        return
    assert canonical_host(url.host) == url.host
    assert url.target.startswith("/")
    assert url.target.isascii()
    assert not set(url.target) & set(" \r\n\t#")


@given(st.text(alphabet="a0:/?#@[\\", max_size=8))
def test_passwords_and_queries_never_show(junk: str) -> None:
    spelled = f"http://me:SECRET{junk}@example.org/x?y=SECRET#SECRET"
    for url in (spelled, spelled.replace("//", "/"), f"http://example.org/a?SECRET{junk}"):
        try:
            shown = MediaURL.parse(url).name
        except MediaError as error:
            shown = str(error)
        assert "SECRET" not in shown


@pytest.mark.parametrize("reader", ["PyAV", "", None, "opencv"])
def test_there_are_three_video_readers(reader: Any) -> None:
    words = f"video_reader={reader!r}: should be auto, pyav, decord"
    with pytest.raises(InvalidRequestError, match=words):
        MediaPolicy(video_reader=reader)
    with pytest.raises(InvalidRequestError, match=words):
        MediaPolicy.of([], [], reader)


def test_a_video_reader_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "find_spec", lambda name: None)
    with pytest.raises(InvalidRequestError, match="video_reader: decord is not installed"):
        MediaPolicy(video_reader="decord")
    assert MediaPolicy(video_reader="pyav").video_reader == "pyav"
