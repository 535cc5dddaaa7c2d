from __future__ import annotations

import base64
import os
import socket
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.web import Web, ok, redirect
from vllm_mlx.errors import MediaError, MediaNotAllowedError
from vllm_mlx.media import local
from vllm_mlx.media.names import SHORTEST_BASE64
from vllm_mlx.media.policy import UNRESTRICTED, MediaPolicy
from vllm_mlx.media.source import MediaFile, opened

NOTHING = MediaPolicy()
PIXELS = bytes(range(256))
BASE64 = base64.b64encode(PIXELS).decode()


def read(source: str | Path | bytes, policy: MediaPolicy) -> bytes:
    with opened(source, policy) as file:
        return file.path.read_bytes()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, empty now."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An allowed folder with a picture, next to folders that are not allowed, and the cwd."""
    folder = tmp_path / "data"
    for name in ("data/sub", "database", "secret"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").write_bytes(b"secret")
    (folder / "a.png").write_bytes(PIXELS)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def policy(data: Path) -> MediaPolicy:
    return MediaPolicy.of([data], [])


# Which source a text is


@pytest.mark.parametrize("kind", [str, Path, lambda p: f"file://{p}", lambda p: f"FILE:{p}"])
@pytest.mark.parametrize("restricted", [True, False])
def test_a_file_by_path_and_url(
    kind: object, restricted: bool, data: Path, policy: MediaPolicy, temporary: Path
) -> None:
    assert callable(kind)
    with opened(kind(data / "a.png"), policy if restricted else UNRESTRICTED) as file:
        assert file.path.read_bytes() == PIXELS
        assert file.path.suffix == ".png"
        assert file.name == str(data / "a.png")
    assert list(temporary.iterdir()) == []


def test_unrestricted_paths_are_handed_on_as_they_are(data: Path) -> None:
    with opened("a.png", UNRESTRICTED) as file:
        assert file == MediaFile(Path("a.png"), "a.png")


def test_file_urls_are_percent_decoded_once(data: Path, policy: MediaPolicy) -> None:
    for name in ("a b.png", "a%20b.png", "ä?#.png", "a+b.png"):
        (data / name).write_bytes(name.encode())
        assert read(f"file://{quote(str(data / name))}", policy) == name.encode()
    assert read(f"file://localhost{data}/a.png", policy) == PIXELS


@pytest.mark.parametrize(
    "url",
    ["file:a.png", "file://a.png", "file://evil.net/a.png", "file:", "file:///a?b", "file:///a#b"],
)
def test_file_urls_are_complete_and_local(url: str) -> None:
    with pytest.raises(MediaError, match="a file URL is file:///folder/name"):
        read(url, UNRESTRICTED)


@pytest.mark.parametrize("source", ["s3://bucket/a.png?SECRET", "ftp://me:SECRET@a/", "X-y://"])
def test_other_schemes_are_named(source: str) -> None:
    with pytest.raises(MediaError, match="media come by http, https, file and data") as caught:
        read(source, UNRESTRICTED)
    assert "SECRET" not in str(caught.value)


def test_a_colon_makes_no_scheme(data: Path, policy: MediaPolicy) -> None:
    for name in ("scene:1.png", "12:30.png", "httpx:a"):
        Path(name).write_bytes(PIXELS)
        assert read(name, policy) == PIXELS


def test_a_path_object_is_always_a_path(data: Path, policy: MediaPolicy) -> None:
    for text in (f"data:image/png;base64,{BASE64}", BASE64, "http://media.example.org/"):
        with pytest.raises(MediaError, match=r"no such file|name too long"):
            read(Path(text), policy)
    Path("http:").mkdir()
    Path("http:/a.png").write_bytes(PIXELS)
    assert read(Path("http://a.png"), policy) == PIXELS


def test_bytes_are_always_the_content() -> None:
    with opened(BASE64.encode(), NOTHING) as file:
        assert file.path.read_bytes() == BASE64.encode()
        assert file.name == "bytes (344 bytes)"
    with pytest.raises(TypeError, match="not bytearray"):
        read(bytearray(PIXELS), NOTHING)  # type: ignore[arg-type]


def test_base64_text(temporary: Path) -> None:
    with opened(BASE64, NOTHING) as file:
        assert file.path.read_bytes() == PIXELS
        assert file.path.stat().st_mode & 0o077 == 0 or file.path.parent.stat().st_mode & 0o077 == 0
        assert file.name == "base64 text (256 bytes)"
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        BASE64[: SHORTEST_BASE64 - 4],
        BASE64[:-1],
        BASE64 + "====",
        BASE64 + "\n",
        BASE64[:76] + "\n" + BASE64[76:],
        " " + BASE64,
        BASE64.replace("/", "_"),
        BASE64.replace("A", "Ａ"),
        "=" * 100,
        "A" * 101,
        "A" * 97 + "===",
        "",
    ],
)
def test_what_is_not_strictly_base64_is_a_path(text: str) -> None:
    with pytest.raises(MediaError, match=r"no such file|name too long|names no file"):
        read(text, UNRESTRICTED)
    with pytest.raises(MediaError):
        read(text, NOTHING)


@pytest.mark.parametrize("policy", [UNRESTRICTED, NOTHING])
def test_megabytes_that_are_no_base64_fail_at_once(policy: MediaPolicy) -> None:
    for text in (BASE64 * 10_000 + "\n", "/9j/" * 500_000 + ".", "a/" * 1_000_000 + "."):
        start = time.monotonic()
        with pytest.raises(MediaError, match="too long for a path, and not strictly base64"):
            read(text, policy)
        assert time.monotonic() - start < 1


def test_half_characters_name_nothing() -> None:
    for text in ("\ud800", "file:///\ud800", "data:\ud800,"):
        for policy in (UNRESTRICTED, NOTHING):
            with pytest.raises(MediaError):
                read(text, policy)


def test_a_path_goes_before_base64(data: Path, policy: MediaPolicy) -> None:
    name = "A" * 64
    assert read(name, policy) == bytes(48)
    Path(name).symlink_to("/etc/passwd")
    with pytest.raises(MediaNotAllowedError):
        read(name, policy)
    Path(name).unlink()
    Path(name).write_bytes(PIXELS)
    assert read(name, policy) == PIXELS


# Data URLs


@pytest.mark.parametrize(
    ("url", "data", "suffix"),
    [
        (f"data:image/png;base64,{BASE64}", PIXELS, ".png"),
        (f"DATA:Image/JPEG;a=b;BASE64,{quote(BASE64)}", PIXELS, ".jpg"),
        (f"data:;base64,{BASE64}", PIXELS, ""),
        (f"data:video/mp4,{quote_from_bytes(PIXELS)}", PIXELS, ".mp4"),
        ("data:../../x;base64,QUJD", b"ABC", ""),
        ("data:,a,b", b"a,b", ""),
    ],
)
def test_data_urls(url: str, data: bytes, suffix: str, temporary: Path) -> None:
    with opened(url, NOTHING) as file:
        assert file.path.read_bytes() == data
        assert file.path.suffix == suffix
        assert len(file.name) < 100
        assert BASE64 not in file.name
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("data:image/png;base64", "a data URL has a comma"),
        ("data:" + "a" * 10_000 + ",", "a data URL has a comma"),
        ("data:image/png;base64,", "is empty"),
        ("data:,", "is empty"),
        (f"data:image/png;base64,{BASE64[:-1]}", "not valid base64"),
        (f"data:image/png;base64,{BASE64}\n", "not valid base64"),
        ("data:image/png;base64,\ud800", "half a character"),
        ("data:image/png;base64,é", "not valid base64"),
    ],
)
def test_data_urls_that_are_none(url: str, error: str) -> None:
    with pytest.raises(MediaError, match=error) as caught:
        read(url, NOTHING)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "source",
    [PIXELS, BASE64, f"data:;base64,{BASE64}", f"data:,{quote_from_bytes(PIXELS)}"],
)
def test_inline_bytes_are_limited(source: str | bytes, temporary: Path) -> None:
    assert read(source, replace(NOTHING, max_bytes=256)) == PIXELS
    for most in (255, 10):
        with pytest.raises(MediaError, match=rf"[\d,]+ bytes, allowed are {most} \(MediaPolicy"):
            read(source, replace(NOTHING, max_bytes=most))
    with pytest.raises(MediaError, match="is empty"):
        read(b"", NOTHING)


@given(st.one_of(st.text(max_size=80), st.text(alphabet="A/+=:.d\0", max_size=80)))
def test_any_text_is_a_file_or_a_media_error(text: str) -> None:
    for source in (text, f"data:{text}", f"file:{text}", f"file://{text}", f"http://{text}"):
        try:
            with opened(source, replace(NOTHING, allowed_paths=(Path("/nowhere"),))) as file:
                assert file.path.is_file()
        except MediaError as error:
            message = str(error)
            assert message.isprintable() or " " in message
            assert not {"\n", "\x1b", "\0"} & set(message)


# Paths


@pytest.mark.parametrize(
    "source",
    [
        "../secret/a.png",
        "sub/../../secret/a.png",
        "{root}/secret/a.png",
        "{root}/database/a.png",
        "{root}/data/../database/a.png",
        "file://{root}/data/%2e%2e/secret/a.png",
        "file://{root}/data/..%2fsecret/a.png",
        "file-link",
        "folder-link/a.png",
        "link-to-link",
        "sub/../folder-link/a.png",
        "folder-link/../secret/a.png",
        "dangling",
        "missing-outside/../../../missing",
        "/etc/passwd",
        "/dev/null",
        "/dev/stdin",
        "/proc/self/environ",
        "/proc/self/root/etc/passwd",
        "{root}",
        "..",
        "/",
        "~/a.png",
    ],
)
def test_nothing_outside_is_read(source: str, data: Path, policy: MediaPolicy) -> None:
    root = data.parent
    (data / "file-link").symlink_to("../secret/a.png")
    (data / "folder-link").symlink_to(root / "secret")
    (data / "link-to-link").symlink_to("file-link")
    (data / "dangling").symlink_to(root / "missing")
    with pytest.raises(MediaError) as caught:
        read(source.format(root=root), policy)
    if source != "~/a.png":  # a folder that doesn't exist, within
        assert isinstance(caught.value, MediaNotAllowedError)
        assert "--allowed-media-path" in str(caught.value)


def test_whether_a_file_outside_exists_is_not_told(data: Path, policy: MediaPolicy) -> None:
    messages = set()
    for name in ("a.png", "b.png"):
        with pytest.raises(MediaNotAllowedError) as caught:
            read(f"../secret/{name}", policy)
        messages.add(str(caught.value).replace(name, ""))
    assert len(messages) == 1


def test_nothing_is_read_by_default(data: Path) -> None:
    with pytest.raises(MediaNotAllowedError):
        read("a.png", NOTHING)
    with pytest.raises(MediaNotAllowedError):
        read(f"file://{data}/a.png", NOTHING)


def test_links_within_are_followed(data: Path, policy: MediaPolicy) -> None:
    (data / "sub/link.png").symlink_to("../a.png")
    (data.parent / "other").symlink_to("data/sub")
    for path in ("sub/link.png", "sub/../a.png", "../data/a.png", "../other/link.png"):
        assert read(path, policy) == PIXELS
    linked = MediaPolicy(allowed_paths=(data.parent / "other", data))
    assert read(data / "a.png", linked) == PIXELS


def test_a_proc_link_is_where_it_leads(data: Path, policy: MediaPolicy) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc")
    with Path("a.png").open("rb") as inside, Path("../secret/a.png").open("rb") as outside:
        assert read(f"/proc/self/fd/{inside.fileno()}", policy) == PIXELS
        with pytest.raises(MediaNotAllowedError):
            read(f"/proc/self/fd/{outside.fileno()}", policy)
    reader, writer = os.pipe()
    with pytest.raises(MediaNotAllowedError):
        read(f"/proc/self/fd/{reader}", policy)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("restricted", [True, False])
def test_only_regular_files(
    restricted: bool, data: Path, policy: MediaPolicy, temporary: Path
) -> None:
    allowed = policy if restricted else UNRESTRICTED
    os.mkfifo("fifo")
    Path("empty").touch()
    Path("loop").symlink_to("loop")
    Path("unreadable").write_bytes(PIXELS)
    Path("unreadable").chmod(0)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    expected = {
        "fifo": "not a regular file",
        "socket": "not a regular file",
        "sub": "is a folder, not a file; name the files in it",
        ".": "is a folder",
        "empty": "is empty; check how it was written",
        "missing": "no such file; check the path",
        "a.png/b": "no such file",
        "loop": "a link|links",
        "a." * 150: "name too long",
        "zero\0byte": "zero bytes",
    }
    if not os.access("unreadable", os.R_OK):  # whoever is root reads all
        expected["unreadable"] = "can't be read: Permission denied; check its permissions"
    for name, error in expected.items():
        with pytest.raises(MediaError, match=error) as caught:
            read(name, allowed)
        assert type(caught.value) is MediaError
    assert list(temporary.iterdir()) == []


def test_devices_and_proc_are_no_files() -> None:
    with pytest.raises(MediaError, match="not a regular file"):
        read("/dev/zero", UNRESTRICTED)
    if Path("/proc/self/environ").exists():
        with pytest.raises(MediaError, match="is empty"):
            read("/proc/self/environ", MediaPolicy(allowed_paths=(Path("/"),)))


def test_files_are_limited(data: Path, policy: MediaPolicy) -> None:
    assert read("a.png", replace(policy, max_bytes=256)) == PIXELS
    for allowed in (policy, UNRESTRICTED):
        with pytest.raises(MediaError, match=r"a\.png: 256 bytes, allowed are 255 \(MediaPolicy"):
            read("a.png", replace(allowed, max_bytes=255))


# Swaps between check and use


@pytest.mark.parametrize("swapped", ["sub/a.png", "sub", "."])
def test_a_link_put_in_place_after_the_check(
    swapped: str, data: Path, policy: MediaPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the allowed folder nothing is followed; the folder itself is its owner's."""
    real, source = os.path.realpath, data / "sub/a.png"

    def realpath(path: str | Path) -> str:
        found = real(path)
        if path == source:
            place = data / swapped
            place.rename(data.parent / "moved")
            outside = data.parent / "secret"
            place.symlink_to(outside / "a.png" if swapped == "sub/a.png" else outside)
        return found

    monkeypatch.setattr(local.os.path, "realpath", realpath)
    with pytest.raises(MediaError):
        read(source, policy)


@pytest.mark.parametrize("replacement", ["link", "fifo", "folder"])
def test_a_file_replaced_right_before_it_is_opened(
    replacement: str, data: Path, policy: MediaPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(found: os.stat_result, name: str) -> None:
        real(found, name)
        if Path("a.png").is_file() and not Path("a.png").is_symlink():
            Path("a.png").unlink()
            match replacement:
                case "link":
                    Path("a.png").symlink_to("../secret/a.png")
                case "fifo":
                    os.mkfifo("a.png")
                case _:
                    Path("a.png").mkdir()

    real = local._check_kind
    monkeypatch.setattr(local, "_check_kind", check)
    with pytest.raises(MediaError):
        read("a.png", policy)


def test_a_file_that_grows_while_it_is_copied(
    data: Path, policy: MediaPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_proc_but_more_bytes() -> int:
        Path("a.png").write_bytes(PIXELS * 2)
        return 2**31 - 1

    monkeypatch.setattr(local.os, "getpid", no_proc_but_more_bytes)
    with pytest.raises(MediaError, match="257 bytes, allowed are 256"):
        read("a.png", replace(policy, max_bytes=256))


@pytest.mark.parametrize("proc", [True, False])
def test_a_file_replaced_while_it_is_used(
    proc: bool, data: Path, policy: MediaPolicy, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    if not proc:
        monkeypatch.setattr(local.os, "getpid", lambda: 2**31 - 1)  # as on a Mac: no /proc
    with opened("a.png", policy) as file:
        assert file.path.is_symlink() is (proc and sys.platform == "linux")
        Path("a.png").unlink()
        Path("a.png").symlink_to("../secret/a.png")
        assert file.path.read_bytes() == file.path.read_bytes() == PIXELS
        assert file.path.suffix == ".png"
    assert list(temporary.iterdir()) == []


# Downloads


def test_a_download_is_a_file_for_as_long_as_the_context(web: Web, temporary: Path) -> None:
    web.says("/a/clip.bin?key=SECRET", redirect("/b/CLIP.MOV"))
    web.says("/b/CLIP.MOV", ok(PIXELS))
    policy = MediaPolicy.of([], ["media.example.org"])
    url = "http://media.example.org/a/clip.bin?key=SECRET"
    with web.network().installed(), opened(url, policy) as file:
        assert file.path.read_bytes() == PIXELS
        assert file.path.name == "media.mov"
        assert file.name == "http://media.example.org/a/clip.bin?…"
        assert file.path.is_relative_to(temporary)
    assert list(temporary.iterdir()) == []


def test_the_content_type_goes_before_the_urls_suffix(web: Web) -> None:
    web.says("/photo.php", ok(PIXELS, "Content-Type: image/webp"))
    web.says("/a.sh%2f..%2f", ok(PIXELS, "Content-Type: a/../../b"))
    policy = MediaPolicy.of([], ["*"])
    with web.network().installed(), opened("http://x.org/photo.php", policy) as file:
        assert file.path.suffix == ".webp"
    with web.network().installed(), opened("http://x.org/a.sh%2f..%2f", policy) as file:
        assert file.path.suffix == ""


def test_a_failed_download_leaves_nothing(web: Web, temporary: Path) -> None:
    web.says("/", b"HTTP/1.1 404 No\r\n\r\n")
    policy = MediaPolicy.of([], ["*"])
    with (
        pytest.raises(MediaError, match="404"),
        web.network().installed(),
        opened("http://x.org/", policy),
    ):
        pass
    with pytest.raises(MediaNotAllowedError), opened("http://x.org/", NOTHING):
        pass
    assert list(temporary.iterdir()) == []


def test_a_second_try_starts_over(web: Web) -> None:
    short = b"HTTP/1.1 200 OK\r\nContent-Length: 256\r\n\r\n" + b"x" * 255
    web.says("/", short, ok(b"y" * 3))
    policy = MediaPolicy.of([], ["*"])
    with web.network().installed(), opened("http://x.org/", policy) as file:
        assert file.path.read_bytes() == b"yyy"


def test_errors_of_the_caller_pass_through_and_clean_up(temporary: Path, data: Path) -> None:
    for source in (PIXELS, data / "a.png"):
        with (
            pytest.raises(TimeoutError, match="mine"),
            opened(source, MediaPolicy.of([data], [])),
        ):
            raise TimeoutError("mine")
    assert list(temporary.iterdir()) == []


def test_no_room_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    with pytest.raises(MediaError, match="no temporary folder on this machine"):
        read(PIXELS, NOTHING)
