"""Models of a hub: downloaded, from the cache, missing, and given up while they are fetched."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.helpers.hub import serving
from tests.helpers.text_folders import write_folder
from vllm_mlx.errors import ModelLoadError
from vllm_mlx.hub import download_model
from vllm_mlx.models import MLXLanguageModel

NAME = "some/model"


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path, "llama")


def closed_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_model_is_downloaded_once(monkeypatch, folder):
    (folder / "consolidated.safetensors").write_bytes(b"the same weights once more")
    with serving(NAME, folder) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with MLXLanguageModel(NAME) as model:
            answer = model.generate("Hi", max_tokens=4, temperature=0).text
    names = {file.name for file in download_model(NAME).iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    monkeypatch.setenv("HF_ENDPOINT", closed_port())
    with MLXLanguageModel(NAME) as model:
        assert model.generate("Hi", max_tokens=4, temperature=0).text == answer


def test_without_a_network_a_model_that_is_not_there_is_so_at_once(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", closed_port())
    script = """
import asyncio, time
from vllm_mlx.engine import SimpleEngine
from vllm_mlx.models import MLXLanguageModel

for name in ("some/model", "model", "bad name!"):
    for load in (MLXLanguageModel(name).load, lambda: asyncio.run(SimpleEngine(name).start())):
        began = time.monotonic()
        try:
            load()
        except Exception as error:
            print(type(error).__name__, int(time.monotonic() - began), error)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    told = ran.stdout.splitlines()
    assert len(told) == 6
    for line in told:
        # Half a second on quiet cores; with the retries of the hub's client it is 23.
        assert re.match(r"ModelLoadError [0-5] can't load '.*': no such local folder, and", line)
    assert "ConnectError" in told[0]
    assert "HFValidationError" in told[-1]


def test_what_the_hub_says_is_told(monkeypatch, folder):
    with serving(NAME, folder) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(ModelLoadError, match=r"some/other.*404"):
            MLXLanguageModel("some/other").load()


@pytest.mark.parametrize("stalls", ["/api/models", "model.safetensors"])
def test_ctrl_c_ends_a_fetch_at_once(monkeypatch, folder, stalls):
    with serving(NAME, folder, stalls) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        interrupt = threading.Thread(target=lambda: hub.asked.wait() and interrupted_at())
        times: list[float] = []

        def interrupted_at() -> None:
            times.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            MLXLanguageModel(NAME).load()
        assert time.monotonic() - times[0] < 2
        assert hub.left.wait(2), "nothing is downloaded any more"
        interrupt.join()


@pytest.mark.parametrize(
    ("call", "signum"),
    [
        ("MLXLanguageModel(N).load()", signal.SIGINT),
        ("asyncio.run(SimpleEngine(N).start())", signal.SIGINT),
        ("MLXLanguageModel(N).load()", signal.SIGKILL),
    ],
)
def test_a_process_that_fetches_ends_at_once(monkeypatch, folder, call, signum):
    script = f"""
import asyncio
from vllm_mlx.engine import SimpleEngine
from vllm_mlx.models import MLXLanguageModel
N = {NAME!r}
{call}
"""
    with serving(NAME, folder, "model.safetensors") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        process = subprocess.Popen(
            [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True
        )
        assert hub.asked.wait(60)
        began = time.monotonic()
        process.send_signal(signum)
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - began < 5
        assert hub.left.wait(2), "nothing is downloaded any more"
    assert signum == signal.SIGKILL or said.rstrip().endswith("KeyboardInterrupt")
