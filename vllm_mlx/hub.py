"""The files of a model from the Hugging Face hub. Needs no MLX."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from vllm_mlx.errors import ModelLoadError
from vllm_mlx.model_files import cached_path, local_path, require_model

TIMEOUT = 10.0  # seconds that the hub may take to say what it has
CONFIG = "config.json"
_FILES = ["*.json", "*.jsonl", "*.py", "*.model", "*.tiktoken", "*.txt", "*.jinja"]


def download_model(name: str, *, config_only: bool = False) -> Path:
    """Return the folder of a hub's model, downloaded unless the cache has it.

    The hub's client waits and downloads where no exception reaches it, so it runs in a process of
    its own, which ends when this call does.

    Args:
        config_only: without weights and tokenizer, to look at what it is.

    Raises:
        ModelLoadError: neither the hub nor the cache has it.
    """
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "vllm_mlx.hub", name, *["config"] * config_only],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    ) as process:
        try:
            while process.poll() is None:
                time.sleep(0.02)
        finally:
            process.kill()
        said = process.communicate()[0].strip() or "its client died"
    if process.returncode:
        reason = f"no such local folder, and the Hugging Face hub did not give it: {said}"
        raise ModelLoadError(f"can't load {name!r}: {reason}")
    return Path(said)


def require_model_here(name: str, *, sees: bool = False) -> None:
    """Do what `require_model` does, and ask the hub for what this machine has not.

    Raises:
        ModelLoadError, InvalidRequestError: see `require_model`; or the hub has it not.
    """
    if local_path(name) is None and cached_path(name) is None:
        download_model(name, config_only=True)
    require_model(name, sees=sees)


def _folder(name: str, *, config_only: bool) -> str:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    away: Exception | None = None
    try:
        HfApi().model_info(name, timeout=TIMEOUT)  # snapshot_download waits for ever
    except Exception as error:
        away = error
    try:
        if config_only:
            return snapshot_download(name, allow_patterns=[CONFIG], local_files_only=bool(away))
        folder = snapshot_download(name, allow_patterns=_FILES, local_files_only=bool(away))
        config = Path(folder, CONFIG)
        sees = config.exists() and "vision_config" in json.loads(config.read_bytes())
        # Others may have the same weights again, as `consolidated.safetensors`.
        files = [*_FILES, "*.safetensors" if sees else "model*.safetensors"]
        return snapshot_download(name, allow_patterns=files, local_files_only=bool(away))
    except LocalEntryNotFoundError as error:
        raise away or error from None


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # our parent decides when we end
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    try:
        print(_folder(sys.argv[1], config_only=len(sys.argv) > 2))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(1)
