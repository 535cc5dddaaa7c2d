"""Each rule of fetching, with a real server behind it and somebody who tries to get past it."""

from __future__ import annotations

import gzip
import io
import socket
import ssl
import struct
import time
from dataclasses import replace

import pytest

from tests.helpers.web import PUBLIC, Answer, Network, Web, ok, redirect
from vllm_mlx.errors import MediaError, MediaNotAllowedError
from vllm_mlx.media.fetch import fetch
from vllm_mlx.media.network import MAX_HEADER_BYTES
from vllm_mlx.media.policy import UNRESTRICTED, MediaPolicy

OTHER_PUBLIC = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
MEDIA = MediaPolicy.of([], ["media.example.org"])
ANY = MediaPolicy.of([], ["*"])
SYSTEM = Network()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_mlx.media.fetch._RETRY_AFTER_S", (0.01, 0.02))


def download(url: str, policy: MediaPolicy, network: Network) -> bytes:
    file = io.BytesIO()
    with network.installed():
        fetch(url, policy, file)
    return file.getvalue()


# Hosts


def test_an_allowed_host_is_fetched_from_at_the_checked_address(web: Web) -> None:
    web.says("/a.jpg?size=1", ok(b"pixels", "Content-Type: Image/PNG; q=1"))
    file = io.BytesIO()
    url = "HTTP://Media.Example.ORG.:8080/a.jpg?size=1#part"
    with web.network().installed():
        suffix = fetch(url, MEDIA, file)
    assert file.getvalue() == b"pixels"
    assert suffix == ".png"
    assert (web.resolved, web.connected) == (["media.example.org"], [PUBLIC])
    (request,) = web.requests
    assert request.startswith(b"GET /a.jpg?size=1 HTTP/1.1\r\nHost: media.example.org:8080\r\n")
    assert b"\r\nAccept-Encoding: identity\r\n" in request


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "http://media.example.org.evil.net/",
        "http://evil.net/media.example.org",
        "http://evil.net?media.example.org",
        "http://evil.net#media.example.org",
        "http://evil.net#@media.example.org/",
        "http://evil.net:80#@media.example.org/",
        "http://1.1.1.1/",
        "http://[2606:4700::1111]/",
    ],
)
def test_other_hosts_are_not_even_resolved(url: str, web: Web) -> None:
    with pytest.raises(MediaNotAllowedError, match="start the worker with --allowed-media-domain"):
        download(url, MEDIA, web.network())
    assert (web.resolved, web.connected) == ([], [])


@pytest.mark.parametrize(
    "url",
    [
        "http://media.example.org@evil.net/",
        "http://evil.net@media.example.org/",
        "http://media.example.org:80@evil.net/",
        "http://evil.net\\@media.example.org/",
        "http://media.example.org\\@evil.net/",
        "http://evil.net\t/",
        "http://media.exam\nple.org/",
        "http://media.example.org/ HTTP/1.1\r\nHost: evil.net",
        "http://media%2eexample.org/",
        "http://media.example.org:80:80/",
        "http://media.example.org:99999/",
        "http://media.example.org:0/",
        "http://media.example.org:x/",
        "http:///media.example.org",
        "http:media.example.org",
        "http:/media.example.org",
        "http://[media.example.org]/",
        "http://[::1]media.example.org/",
        "ftp://media.example.org/",
        "file:///etc/passwd",
        "http\u017f://media.example.org/",
        " http://media.example.org/",
        "http://media.example.org/\ud800",
    ],
)
def test_urls_that_could_be_read_in_two_ways_are_not_read(url: str, web: Web) -> None:
    with pytest.raises(MediaError):
        download(url, ANY, web.network())
    assert (web.resolved, web.connected) == ([], [])


LITERALS = """
    127.0.0.1 127.0.0.1. [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] [64:ff9b::7f00:1] [2002:7f00:1::]
    10.0.0.1 169.254.169.254 [fd00:ec2::254] 100.64.0.1 0.0.0.0 [::] 0 2130706433 0177.0.0.1
    0x7f.0.0.1 127.1 %31%32%37.0.0.1 \u246027.0.0.1 \uff11\uff12\uff17.0.0.1
"""


@pytest.mark.parametrize("host", LITERALS.split())
def test_any_public_host_is_no_private_address(host: str, web: Web) -> None:
    with pytest.raises(MediaError):
        download(f"http://{host}:{web.port}/", ANY, SYSTEM)
    assert web.requests == []


def test_localhost_is_refused_by_its_real_addresses(web: Web) -> None:
    with pytest.raises(MediaNotAllowedError, match="is a loopback address"):
        download(f"http://localhost:{web.port}/", ANY, SYSTEM)
    named = MediaPolicy(allowed_domains=("localhost", "127.0.0.1"))
    for host in ("localhost", "127.0.0.1"):
        with pytest.raises(MediaNotAllowedError):
            download(f"http://{host}:{web.port}/", named, SYSTEM)
    assert web.requests == []


def test_without_a_list_of_domains_private_hosts_are_fetched_from(web: Web) -> None:
    web.says("/", ok(b"pixels"))
    for host in ("127.0.0.1", "localhost"):
        assert download(f"http://{host}:{web.port}", UNRESTRICTED, SYSTEM) == b"pixels"


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        [PUBLIC, "10.0.0.1"],
        [PUBLIC, OTHER_PUBLIC, "::ffff:10.0.0.1"],
        ["fe80::1%lo"],
        ["168.63.129.16"],
    ],
)
def test_one_private_address_of_a_name_is_enough(addresses: list[str], web: Web) -> None:
    web.addresses["media.example.org"] = [addresses]
    for policy in (MEDIA, ANY):
        with pytest.raises(MediaNotAllowedError, match="only public ones are fetched from"):
            download("http://media.example.org/", policy, web.network())
    assert web.connected == []


def test_a_name_that_changes_after_the_check_is_not_asked_again(web: Web) -> None:
    web.says("/", ok(b"pixels"))
    web.addresses["media.example.org"] = [[PUBLIC], ["127.0.0.1"]]
    assert download("http://media.example.org/", MEDIA, web.network()) == b"pixels"
    assert (web.resolved, web.connected) == (["media.example.org"], [PUBLIC])


def test_a_name_that_changes_before_a_second_try_is_checked_again(web: Web) -> None:
    web.says("/", b"HTTP/1.1 503 Busy\r\n\r\n")
    web.addresses["media.example.org"] = [[PUBLIC], ["127.0.0.1"]]
    with pytest.raises(MediaNotAllowedError):
        download("http://media.example.org/", MEDIA, web.network())
    assert web.connected == [PUBLIC]


def test_the_environment_names_no_proxy(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    web.says("/", ok(b"pixels"))
    assert download("http://media.example.org/", MEDIA, web.network()) == b"pixels"


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int, web: Web) -> None:
    web.says("/a/b?c", redirect("../d e.GIF?f", status))
    web.says("/d%20e.GIF?f", ok(b"pixels"))
    file = io.BytesIO()
    with web.network().installed():
        suffix = fetch("http://media.example.org/a/b?c", MEDIA, file)
    assert (file.getvalue(), suffix) == (b"pixels", ".gif")


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("http://evil.net/", "evil.net is not a host"),
        ("//evil.net/", "evil.net is not a host"),
        ("http://127.0.0.1/", "127.0.0.1 is a loopback address"),
        ("http://1.1.1.1/", "1.1.1.1 is not a host"),
        ("http://me:secret@media.example.org/", "with a user or a password"),
        ("http://media.example.org\\@evil.net/", "backslashes"),
        ("file:///etc/passwd", "no http or https URL"),
        ("ftp://media.example.org/", "no http or https URL"),
        ("data:image/png;base64,AAAA", "no http or https URL"),
        ("http://[::1", "no URL"),
        ("http://2130706433/", "four decimal numbers"),
        ("http://m\xfcller.example/", "not a host name"),
    ],
)
def test_each_redirect_is_checked_like_the_first(location: str, error: str, web: Web) -> None:
    web.says("/", redirect(location))
    with pytest.raises(MediaError, match=error) as caught:
        download("http://media.example.org/", MEDIA, web.network())
    assert len(web.connected) == 1
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "kind"),
    [
        ("http://127.0.0.1/", "loopback"),
        ("http://[::1]/", "loopback"),
        ("http://169.254.169.254/latest/meta-data/", "metadata"),
        ("http://inside.example.net/", "private"),
    ],
)
def test_a_redirect_leads_to_no_private_address(location: str, kind: str, web: Web) -> None:
    web.says("/", redirect(location))
    web.addresses["inside.example.net"] = [["10.0.0.1"]]
    with pytest.raises(MediaNotAllowedError, match=f"redirected to .* is a {kind} address"):
        download("http://media.example.org/", ANY, web.network())
    assert web.connected == [PUBLIC]


def test_redirects_are_counted(web: Web) -> None:
    for step in range(3):
        web.says(f"/{step}", redirect(f"/{step + 1}"))
    web.says("/3", ok(b"pixels"))
    policy = replace(MEDIA, max_redirects=3)
    assert download("http://media.example.org/0", policy, web.network()) == b"pixels"
    web.says("/3", redirect("/0"))
    with pytest.raises(MediaError, match="more than 3 redirects"):
        download("http://media.example.org/0", policy, web.network())
    assert len(web.requests) == 4 + 4
    with pytest.raises(MediaError, match="more than 0 redirects"):
        download("http://media.example.org/0", replace(MEDIA, max_redirects=0), web.network())


# TLS


def test_https_is_verified_for_the_name_at_the_checked_address(encrypted_web: Web) -> None:
    encrypted_web.says("/", ok(b"pixels"))
    network = encrypted_web.network()
    assert download("https://media.example.org/", MEDIA, network) == b"pixels"
    assert encrypted_web.connected == [PUBLIC]
    with pytest.raises(MediaError, match=r"TLS certificate refused: .*other\.example\.org"):
        download("https://other.example.org/", ANY, network)
    with pytest.raises(MediaError, match="TLS certificate refused"):
        download("https://media.example.org/", MEDIA, replace(network, trusted=SYSTEM.trusted))
    assert len(encrypted_web.connected) == 3  # nothing of it was tried again
    assert len(encrypted_web.requests) == 1


def test_the_systems_certificates_are_verified() -> None:
    context = SYSTEM.trusted()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_https_redirects_to_https_only(encrypted_web: Web) -> None:
    encrypted_web.says("/", redirect("http://media.example.org/a"))
    with pytest.raises(MediaError, match="from https to http"):
        download("https://media.example.org/", UNRESTRICTED, encrypted_web.network())
    encrypted_web.says("/", redirect("//media.example.org/a"))
    encrypted_web.says("/a", ok(b"pixels"))
    assert download("https://media.example.org/", MEDIA, encrypted_web.network()) == b"pixels"


def test_an_encrypted_body_that_just_stops_is_incomplete(encrypted_web: Web) -> None:
    encrypted_web.says("/", b"HTTP/1.1 200 OK\r\n\r\nhalf of the pixels")
    with pytest.raises(MediaError, match="the connection failed"):
        download("https://media.example.org/", MEDIA, encrypted_web.network())


# Bytes


SMALL = replace(MEDIA, max_bytes=1000)


def endless(piece: bytes) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(piece)

    return answer


def test_as_many_bytes_as_allowed(web: Web) -> None:
    web.says("/", ok(b"x" * 1000))
    assert len(download("http://media.example.org/", SMALL, web.network())) == 1000


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        (ok(b"x" * 1001), "1,001"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "99,999,999,999"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001, "at least 1,001"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + b"x" * 1001, "at least 1,001"),
        (endless(b"400\r\n" + b"x" * 1024 + b"\r\n"), "at least"),
        (endless(b"fffffffffffff\r\n" + b"x" * 1024), "at least"),
    ],
)
def test_too_many_bytes_are_refused(answer: Answer, size: str, web: Web) -> None:
    web.says("/", answer)
    with pytest.raises(MediaError, match=rf"{size}[\d, ]*bytes, allowed are 1,000 \(MediaPolicy"):
        download("http://media.example.org/", SMALL, web.network())
    assert len(web.requests) == 1


def test_a_negative_chunk_is_not_read_to_its_end(web: Web) -> None:
    """`http.client` passes -1 on to `read()`, which means all there is."""
    web.says("/", endless(b"-1\r\n" + b"x" * 1024))
    with pytest.raises(MediaError, match="broke off"):
        download("http://media.example.org/", MEDIA, web.network())


@pytest.mark.parametrize(
    "header",
    ["Content-Encoding: gzip", "content-encoding: br", "Transfer-Encoding: gzip, chunked"],
)
def test_compressed_answers_are_refused(header: str, web: Web) -> None:
    web.says("/", ok(gzip.compress(b"0" * 1_000_000), header))
    with pytest.raises(MediaError, match="compresses what was asked for uncompressed"):
        download("http://media.example.org/", MEDIA, web.network())


def test_headers_are_limited(web: Web) -> None:
    def drivel(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for _ in range(10 * MAX_HEADER_BYTES // 1000):
            connection.sendall(b"A: " + b"x" * 995 + b"\r\n")

    def patience(connection: socket.socket) -> None:
        for _ in range(10 * MAX_HEADER_BYTES // 25):
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    many = b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"
    for answer in (drivel, patience, many):
        web.says("/", answer)
        with pytest.raises(MediaError, match=r"headers (of more than 65,536 bytes|are too)"):
            download("http://media.example.org/", MEDIA, web.network())
    assert len(web.requests) == 3


# Time


HASTY = replace(MEDIA, timeout_s=0.4)


def dripping(start: bytes, drop: bytes) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.sendall(start)
        for _ in range(14):
            time.sleep(0.05)
            connection.sendall(drop)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        dripping(b"", b""),
        dripping(b"", b"H"),
        dripping(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
        dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
)
def test_time_is_limited_in_all_however_slowly_it_drips(answer: Answer, web: Web) -> None:
    web.says("/", answer)
    start = time.monotonic()
    with pytest.raises(MediaError, match=r"not here after 0\.4 s"):
        download("http://media.example.org/", HASTY, web.network())
    assert time.monotonic() - start < 0.7


def test_time_is_limited_while_tls_shakes_hands(web: Web) -> None:
    ours, theirs = socket.socketpair()
    network = replace(web.network(), open_socket=lambda *_: ours)
    with theirs, pytest.raises(MediaError, match=r"not here after 0\.4 s"):
        download("https://media.example.org/", HASTY, network)


def test_time_is_limited_while_resolving_and_connecting(web: Web) -> None:
    def late(host: str, port: int) -> list[str]:
        time.sleep(0.8)
        return [PUBLIC]

    def nowhere(address: str, port: int, timeout_s: float) -> socket.socket:
        asked.append(timeout_s)
        time.sleep(timeout_s)
        raise TimeoutError

    asked: list[float] = []
    for network in (
        replace(SYSTEM, addresses_of=late),
        replace(web.network(), open_socket=nowhere),
    ):
        start = time.monotonic()
        with pytest.raises(MediaError, match=r"not here after 0\.4 s"):
            download("http://media.example.org/", HASTY, network)
        assert time.monotonic() - start < 0.75
    assert len(asked) == 1


def test_a_dead_address_takes_only_its_share_of_the_time(web: Web) -> None:
    def half(address: str, port: int, timeout_s: float) -> socket.socket:
        if address == OTHER_PUBLIC:
            assert timeout_s < 0.3
            raise TimeoutError
        return connect(address, port, timeout_s)

    connect = web.network().open_socket
    web.says("/", ok(b"pixels"))
    web.addresses["media.example.org"] = [[OTHER_PUBLIC, PUBLIC]]
    network = replace(web.network(), open_socket=half)
    assert download("http://media.example.org/", HASTY, network) == b"pixels"


# What fails, and what is tried again


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 500 Oops\r\n\r\n", "the server answered 500 Internal Server Error"),
        (b"HTTP/1.1 599 Oops\r\n\r\n", "the server answered 599$"),
        (b"", "broke off"),
        (b"garbage\r\n\r\n", "answers no HTTP"),
        (reset, "the connection failed: Connection reset|broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12345", "ended after 5 of 9 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n12345", "broke off"),
    ],
)
def test_three_tries_and_no_more(answer: Answer, error: str, web: Web) -> None:
    web.says("/", answer, answer, ok(b"pixels"))
    assert download("http://media.example.org/", MEDIA, web.network()) == b"pixels"
    web.requests.clear()
    web.says("/", answer)
    with pytest.raises(MediaError, match=error) as caught:
        download("http://media.example.org/", MEDIA, web.network())
    assert type(caught.value) is MediaError
    assert len(web.requests) == 3


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 404 SECRET\r\n\r\n", "the server answered 404 Not Found$"),
        (b"HTTP/1.1 403 No\r\n\r\n", "403 Forbidden$"),
        (b"HTTP/1.1 206 Partial Content\r\n\r\nx", "206 Partial Content$"),
        (b"HTTP/1.1 204 None\r\n\r\n", "204 No Content$"),
        (b"HTTP/1.1 304 Same\r\n\r\n", "304 Not Modified$"),
        (b"HTTP/1.1 302 Found\r\n\r\n", "more than 5 redirects"),
        (ok(b""), "is empty"),
        (ok(b"<html>", "Content-Type: text/html; charset=utf-8"), "a web page"),
    ],
)
def test_what_is_wrong_is_not_tried_again(answer: Answer, error: str, web: Web) -> None:
    web.says("/a?SECRET", answer)
    web.says("/a", answer)
    with pytest.raises(MediaError, match=error) as caught:
        download("http://media.example.org/a?SECRET#SECRET", MEDIA, web.network())
    assert "SECRET" not in str(caught.value)
    assert str(caught.value).startswith("http://media.example.org/a?…")
    assert len(web.requests) in (1, 6)


def test_no_second_try_without_time_for_it(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_mlx.media.fetch._RETRY_AFTER_S", (1.0, 1.0))
    web.says("/", b"HTTP/1.1 500 Oops\r\n\r\n")
    with pytest.raises(MediaError, match="500"):
        download("http://media.example.org/", replace(MEDIA, timeout_s=0.9), web.network())
    assert len(web.requests) == 1


def test_no_such_host() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def silent(host: str, port: int) -> list[str]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Try again")

    asked: list[str] = []
    with pytest.raises(MediaError, match="there is no such host"):
        download("http://media.example.org/", MEDIA, replace(SYSTEM, addresses_of=unknown))
    with pytest.raises(MediaError, match="the name server doesn't answer"):
        download("http://media.example.org/", MEDIA, replace(SYSTEM, addresses_of=silent))
    assert len(asked) == 3
    with pytest.raises(MediaError, match="no address"):
        download("http://media.example.org/", MEDIA, replace(SYSTEM, addresses_of=lambda *_: []))


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(MediaError, match="the connection failed: Connection refused"):
        download(f"http://127.0.0.1:{port}/", UNRESTRICTED, SYSTEM)


def test_a_full_disk_is_the_machines_fault_and_not_tried_again(web: Web) -> None:
    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError(28, "No space left on device")

    web.says("/", ok(b"pixels"))
    full = pytest.raises(MediaError, match="can't be kept on this machine: No space left")
    with full, web.network().installed():
        fetch("http://media.example.org/", MEDIA, Full())
    assert len(web.requests) == 1
