"""`rediss://`: encrypted, and only with a server whose certificate is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.connection import connect
from jobs.dataset import verify
from tests.helpers.bench import work_in_burst
from tests.helpers.command_line import cli
from tests.helpers.engines import MODEL, DoubleEngine, write_prompts
from tests.helpers.tls import Authority, TlsProxy
from vllm_mlx.errors import InvalidRequestError


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def port(redis_url: str, authority: Authority) -> Iterator[int]:
    """Where the server is to be had encrypted."""
    with TlsProxy(redis_url.removeprefix("unix://"), authority.certify("localhost")) as proxy:
        yield proxy.port


def url_of(port: int, authority: Authority) -> str:
    return f"rediss://localhost:{port}/0?ssl_ca_certs={authority.path}"


def test_a_whole_run_over_tls(port: int, authority: Authority, tmp_path: Path) -> None:
    url = url_of(port, authority)
    prompts, out = write_prompts(tmp_path / "p.jsonl", 3), tmp_path / "out"

    enqueued = cli("enqueue", prompts, "--model", MODEL, "--out", out, "-u", url)
    assert enqueued.exit_code == 0, enqueued.output
    work_in_burst(url, DoubleEngine())
    status = cli("status", "-u", url, "--json")

    assert '"state": "finished"' in status.stdout, status.output
    assert verify(out).complete


def test_the_server_of_another_authority_is_refused(port: int, tmp_path: Path) -> None:
    result = cli("status", "-u", url_of(port, Authority(tmp_path, "another")))

    assert result.exit_code == 3
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"mlx-batch: rediss://localhost:{port}/0?***: ConnectionError")
    assert "certificate verify failed" in line


def test_a_server_is_not_trusted_without_its_authority(port: int) -> None:
    result = cli("status", "-u", f"rediss://localhost:{port}")

    assert result.exit_code == 3
    assert "certificate verify failed" in result.stderr


def test_a_certificate_for_another_host_is_refused(redis_url: str, authority: Authority) -> None:
    certificate = authority.certify("redis.example.org")
    with TlsProxy(redis_url.removeprefix("unix://"), certificate) as proxy:
        result = cli("status", "-u", url_of(proxy.port, authority))

    assert result.exit_code == 3
    assert "localhost" in result.stderr
    assert "Hostname mismatch" in result.stderr


@pytest.mark.parametrize("command", ["enqueue", "worker", "run"])
def test_every_command_says_so_in_one_line(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("vllm_mlx.batching.core.EngineCore", lambda *_, **__: DoubleEngine())
    words: list[object] = [command, "--model", MODEL, "-u", url_of(port, Authority(tmp_path, "b"))]
    if command != "worker":
        words += [write_prompts(tmp_path / "p.jsonl", 1), "--out", tmp_path / "out"]

    result = cli(*words)

    assert result.exit_code == 3
    assert "certificate verify failed" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.output


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
@pytest.mark.parametrize("content", [None, "", "no certificate"], ids=["missing", "empty", "text"])
def test_a_file_without_certificates_is_bad_usage(
    tmp_path: Path, option: str, content: str | None
) -> None:
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_text(content)

    result = cli("status", "-u", f"rediss://localhost:1?{option}={path}")

    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert f"{option}: {path} can't be used" in line


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://localhost?ssl_ca_certs=/ca.pem", "write rediss://"),
        ("rediss://localhost?tls=yes", "'tls'"),
        ("rediss://localhost?ssl_cert_reqs=perhaps", "perhaps"),
        ("unix:///redis.sock?ssl_ca_certs=/ca.pem", "'ssl_ca_certs'"),
    ],
)
def test_options_that_a_connection_has_not_are_refused_at_once(url: str, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        connect(url)
