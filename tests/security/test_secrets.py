"""Passwords in URLs are shown to nobody: not by logs, rows, manifests, titles or errors."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset
import pytest

from jobs.connection import connect, redacted
from tests.helpers.bench import Bench
from tests.helpers.engines import MODEL, write_prompts
from vllm_mlx.errors import InvalidRequestError, MediaError
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.media.source import opened

SECRET = "hunter2"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "RQ_REDIS_URL"}


@pytest.fixture
def url(bench: Bench) -> Iterator[str]:
    """The server's URL for a user with a password."""
    bench.redis.execute_command("ACL", "SETUSER", "app", "on", f">{SECRET}", "~*", "&*", "+@all")
    yield bench.url.replace("unix://", f"unix://app:{SECRET}@")
    bench.redis.execute_command("ACL", "DELUSER", "app")


def mlx_batch(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "worker.cli", *map(str, words)]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def titles_until_the_end(process: subprocess.Popen[str]) -> set[str]:
    """The command lines of all that the process starts, as anybody can list them."""
    seen, own = set[str](), set[str]()
    while process.poll() is None:
        own.add(Path(f"/proc/{process.pid}/cmdline").read_text())
        for pid in descendants(process.pid):
            with contextlib.suppress(OSError):
                seen.add(Path(f"/proc/{pid}/cmdline").read_text(errors="replace"))
                seen.add(Path(f"/proc/{pid}/comm").read_text(errors="replace"))
        time.sleep(0.05)
    return seen - own  # a child has it until it becomes another program


def descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, before = {pid}, set[int]()
    while found != before:
        before = found
        found = found | {child for child, parent in parents.items() if parent in found}
    return found - {pid}


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="other systems have no /proc")
@pytest.mark.slow
def test_a_run_and_a_worker_keep_the_password(url: str, tmp_path: Path) -> None:
    prompts, out = write_prompts(tmp_path / "p.jsonl", 3, max_tokens=2), tmp_path / "out"

    run = mlx_batch("run", prompts, "--model", MODEL, "--out", out, "-u", url)
    titles = titles_until_the_end(run)
    said = [*run.communicate()]
    worker = mlx_batch("worker", "--model", MODEL, "--burst", "-v", "-u", url)
    said += worker.communicate(timeout=60)

    assert (run.returncode, worker.returncode) == (0, 0), said
    assert any("worker.cli\0worker" in title for title in titles)
    assert not [title for title in titles if SECRET in title]
    assert not [text for text in said if SECRET in text]
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"manifest.json", "README.md", "worker-0.log"} <= {path.name for path in files}
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    rows = pyarrow.dataset.dataset(f"{out}/data", format="parquet").to_table().to_pylist()
    assert SECRET not in str(rows)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:hunter2@host:1/0", "redis://***@host:1/0"),
        ("redis://:hunter2@host", "redis://***@host"),
        ("redis://user:hunter2@hunter2@host", "redis://***@host"),
        ("redis://user:hunt/er2hunter2@host", "redis://***@host"),
        ("redis://user:hunter2?hunter2@host", "redis://***"),
        ("redis://user:hunter2#hunter2@host", "redis://***"),
        ("unix:///redis.sock?password=hunter2", "unix:///redis.sock?***"),
        ("unix:///redis.sock?password=hunter2@hunter2", "unix://***"),
        ("user:hunter2@host:1", "***@host:1"),
        ("redis://host/0#hunter2", "redis://host/0?***"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "user:hunter2@host",
        "http://user:hunter2@host",
        "redis://user:hunter2/hunter2@host",
        "redis://user:hunter2?hunter2@host",
        "redis://user:hunter2#hunter2@host",
        "redis://user:[hunter2@host",
        "redis://user:hunter2\u2100@host",
        "redis://host:hunter2",
        "redis://host?db=hunter2",
        "redis://host?bogus=hunter2",
        "rediss://host?ssl_ca_certs=/none&ssl_password=hunter2",
        "rediss://host?ssl_certfile=/none&ssl_password=hunter2@",
    ],
)
def test_an_error_about_a_url_does_not_quote_its_password(url: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        connect(url)
    assert SECRET not in str(caught.value).replace("host:hunter2", "")


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@example.org/a.png",
        "https://example.org/a.png?signature=hunter2",
        "https://user:hunter2@example.org/a.png?X-Amz-Signature=hunter2#hunter2",
        "https://user:hunt/hunter2@example.org/a.png",
        "https://example.org:hunter2@/a.png",
        "s3://hunter2:hunter2@bucket/a.png",
        "http://[::1]/a.png?token=hunter2",
        "https://exa mple.org/a.png?token=hunter2",
        "HTTPS://user:hunter2@example.org\\@host/a.png",
    ],
)
@pytest.mark.parametrize("domains", [(), ("other.example",)])
def test_an_error_about_a_medium_does_not_quote_user_or_query(
    url: str, domains: tuple[str, ...]
) -> None:
    policy = MediaPolicy(allowed_domains=domains)
    with pytest.raises(MediaError) as caught, opened(url, policy):
        pass
    assert SECRET not in str(caught.value)
