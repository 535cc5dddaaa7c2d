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

TIMEOUT = 10.0  # seconds that the hub may take to say what it has
_FILES = ["*.json", "*.jsonl", "*.py", "*.model", "*.tiktoken", "*.txt", "*.jinja"]


def fetch(name: str) -> Path:
    """Return the folder of a hub's model, downloaded unless the cache has it.

    The hub's client retries, waits and downloads where no exception reaches it, so it runs in a
    process of its own, which ends when this call does.

    Raises:
        ModelLoadError: neither the hub nor the cache has it.
    """
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "vllm_mlx.hub", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        try:
            while process.poll() is None:
                time.sleep(0.02)
        finally:
            process.kill()
        assert process.stdout
        said = process.stdout.read().decode(errors="replace").strip()
    if process.returncode:
        raise ModelLoadError(
            f"can't load {name!r}: no such local folder, and the Hugging Face hub did not give it: "
            f"{said or 'its client died'}"
        )
    return Path(said)


def main() -> None:
    """Fetch the model that is the argument, and print its folder or why there is none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # our parent decides when we end
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        print(_folder(sys.argv[1]))
    except Exception as error:
        sys.exit(print(f"{type(error).__name__}: {error}") or 1)


def _folder(name: str) -> str:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    is_away: Exception | None = None
    try:
        HfApi().model_info(name, timeout=TIMEOUT)  # snapshot_download waits for ever
    except Exception as error:
        is_away = error
    try:
        folder = snapshot_download(name, allow_patterns=_FILES, local_files_only=bool(is_away))
        config = Path(folder, "config.json")
        sees = config.exists() and "vision_config" in json.loads(config.read_bytes())
        # Others may have the same weights again, as `consolidated.safetensors`.
        files = [*_FILES, "*.safetensors" if sees else "model*.safetensors"]
        return snapshot_download(name, allow_patterns=files, local_files_only=bool(is_away))
    except LocalEntryNotFoundError:
        raise is_away or LocalEntryNotFoundError(name) from None


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
