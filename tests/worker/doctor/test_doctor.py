"""`mlx-batch doctor` looks at what is there, and says what to do about what is not."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from redis import Redis

from tests.helpers.command_line import cli
from tests.helpers.shell import Shell
from vllm_mlx import platform
from vllm_mlx.platform import attention
from worker.cli.exit_codes import ExitCode
from worker.doctor import computing, hub, kernels, packages
from worker.doctor.finding import Finding
from worker.doctor.hub import examine_hub
from worker.doctor.machine import examine_machine
from worker.doctor.server import examine_server


@contextlib.contextmanager
def answering(code: int) -> Iterator[str]:
    """A web server that answers each request so; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


NOWHERE = "redis://user:hunter2@127.0.0.1:1/0"


def only(found: Any, name: str) -> Finding:
    (finding,) = [each for each in found if each.name == name]
    return finding


def test_each_line_of_a_machine_that_works(shell: Shell, redis_url: str) -> None:
    code, said = shell.run("doctor", "-u", redis_url)

    assert code == 0, said
    assert max(map(len, said.splitlines())) <= 80
    marks, found, name = {}, dict[str, str](), ""
    for line in said.splitlines()[:-1]:
        name = line[8:23].strip() or name  # else the line before goes on
        marks[name] = line[:6].strip() or marks[name]
        found[name] = f"{found.get(name, '')} {line[25:].strip()}"
    names = ["machine", "memory", "disk", "packages", "mlx", "kernels", "redis", "persistence"]
    assert not set(names) - set(found)
    assert all("-> " in found[name] for name, mark in marks.items() if mark != "ok")
    assert f"mlx {metadata.version('mlx')}" in found["packages"]
    assert "valkey" in found["redis"]
    assert "attention of slots" in found["kernels"]
    assert said.splitlines()[-1] == "a worker can run"
    assert "not asked (HF_HUB_OFFLINE)" in found["model hub"]


def test_a_server_that_is_not_there_fails_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.doctor.examination.examine_computing", lambda: iter(()))

    result = cli("doctor", env={"RQ_REDIS_URL": NOWHERE})

    assert result.exit_code == ExitCode.FAILED
    assert "FAILED  redis" in result.stdout
    assert "-> start it, or mend the URL" in result.stdout
    lines = cli("doctor", "--json", env={"RQ_REDIS_URL": NOWHERE}).stdout.splitlines()
    said = {line["name"]: line for line in map(json.loads, lines)}
    assert (said["machine"]["state"], said["redis"]["state"]) == ("ok", "failed")
    assert "hunter2" not in result.output


@pytest.mark.parametrize(("code", "state"), [(200, "ok"), (404, "ok"), (403, "advice")])
def test_a_hub_is_asked(monkeypatch: pytest.MonkeyPatch, code: int, state: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with answering(code) as url:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        found = only(examine_hub(), "model hub")

    assert found.state == state
    assert found.found == (f"{url} answers" if state == "ok" else f"{url}: HTTP 403")


def test_a_hub_that_does_not_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        found = only(examine_hub(), "model hub")

    assert found.state == "advice"
    assert found.found.startswith(f"{url}: ")
    assert "HF_HUB_OFFLINE=1" in found.advice


def test_our_own_server_is_started_for_a_moment() -> None:
    assert only(examine_server(None), "redis").state == "ok"


def test_what_a_server_keeps(redis: Redis, redis_url: str) -> None:
    for settings, words in [
        ({"appendonly": "no", "save": ""}, "none"),
        ({"appendonly": "no", "save": "60 1"}, "snapshots only"),
        ({"appendonly": "yes", "save": ""}, "append-only"),
    ]:
        for name, value in settings.items():
            redis.config_set(name, value)
        finding = only(examine_server(redis_url), "persistence")
        assert words in finding.found
        assert (finding.state == "ok") == (settings["appendonly"] == "yes")


def test_a_server_that_evicts_fails(redis: Redis, redis_url: str) -> None:
    redis.config_set("maxmemory", "100mb")
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        finding = only(examine_server(redis_url), "redis memory")
    finally:
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", "0")

    assert finding.state == "failed"
    assert "allkeys-lru" in finding.found
    assert "noeviction" in finding.advice


def test_versions_are_compared_with_what_the_wheel_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ["redis<2", "nowhere-to-be-found>=3; extra == 'cpu'", "other; extra == 'dev'", "click"]
    monkeypatch.setattr(packages.metadata, "requires", lambda _: asked)
    monkeypatch.setattr(packages, "backend_extra", lambda: "cpu")

    found = list(packages.examine_packages())

    assert [each.state for each in found] == ["failed", "failed"]
    assert found[0].found == f"redis {metadata.version('redis')} is here, and <2 is needed"
    assert found[0].advice == "pip install 'redis<2'"
    assert found[1].advice == "pip install 'nowhere-to-be-found>=3'"


def test_a_kernel_that_computes_otherwise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*given: Any) -> mx.array:
        return attention.attend_slots(*given) + 0.1

    operations = platform.operations()._replace(attend_slots=wrong)
    monkeypatch.setattr(platform, "operations", lambda: operations)

    compared = {each.name: each.is_right for each in kernels.compare_kernels()}

    assert {name for name, is_right in compared.items() if not is_right} == {
        "attention of slots",
        "attention of slots (sinks)",
    }
    failed = [each for each in computing._kernels() if each.state == "failed"]
    assert failed[0].found.startswith("attention of slots is off by 0.")


def test_an_mlx_that_ends_its_process_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "mlx"
    broken.mkdir()
    (broken / "__init__.py").write_text("import os; os.abort()")
    monkeypatch.syspath_prepend(str(tmp_path))

    finding = only(computing.examine_computing(), "mlx")

    assert finding.state == "failed"
    assert "ended with code -6" in finding.found


def test_a_folder_that_can_not_be_written_to_fails(tmp_path: Path) -> None:
    finding = only(examine_machine(tmp_path / "nowhere"), "disk")

    assert finding.state == "failed"
    assert finding.advice
