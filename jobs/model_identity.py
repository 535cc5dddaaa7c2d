"""`ModelIdentity`: which model a run is made with, in whatever folder its own folder lies."""

from __future__ import annotations

import hashlib
import logging
import re
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from vllm_mlx.adapter import Adapter
from vllm_mlx.errors import InvalidRequestError, ModelLoadError
from vllm_mlx.model_files import ALIASES, local_path

logger = logging.getLogger("mlx_batch.producer")

# What a model is made of: its configurations, tokenizer, template, code and weights. Beside them
# there may be a trainer's logs, which change nothing.
_OF_MODEL = re.compile(
    r".*(config|token|vocab|merges|chat_template|index).*\.(json|txt|jinja)"
    r"|.*\.(model|tiktoken|py|safetensors|gguf)"
)
_WHOLE = 1 << 26  # bytes; of larger files, which are weights, samples are read
_SAMPLE, _SAMPLES = 1 << 16, 16


class ModelIdentity(NamedTuple):
    """A model, distinct from others of the same name.

    Attributes:
        name: a hub id or an alias; of a folder or a file its last part and a hash of its content,
            `tiny@3fa2b1c9d0e1`. An adapter's follows it, `tiny@3fa2b1c9d0e1+terse@5d1e9b07c2a4`.
            Queues are named after it, and each row has it.
        revision: the hub's commit, or the version of the alias's package; None if this machine
            does not have the model, or if the name holds a hash.
    """

    name: str
    revision: str | None = None


def identify(model: str, adapter: str | Path | None = None) -> ModelIdentity:
    """Return the identity of what `--model` names on this machine, with `--adapter`.

    A name with its hash, from another machine, is an identity already.

    Raises:
        ModelLoadError: there is no such folder or file here, or it can't be read.
    """
    if adapter is not None:
        found, base = Adapter.of(adapter), identify(model)
        name = f"{base.name}+{_with_digest(found.folder, found.files)}"
        return base._replace(name=name)
    path = None if model in ALIASES else local_path(model)
    if path is None:
        return ModelIdentity(model, revision_of(model))
    files = _files_of(path) if path.is_dir() else [path]
    return ModelIdentity(_with_digest(path, files))


def identify_asked(model: str, adapter: str | Path | None) -> ModelIdentity:
    """Return the identity of what a run is asked to be made with, as `identify` does.

    Logs a warning where the adapter was trained on a model of another name.

    Raises:
        ModelLoadError: a file that is here can't be what it should be.
        InvalidRequestError: what only workers may have is not here; the message says what to do.
    """
    if adapter is not None and _is_folder(adapter) and (doubt := Adapter.of(adapter).doubt(model)):
        logger.warning(doubt)
    try:
        return identify(model, adapter)
    except ModelLoadError as error:
        if "://" in model or (adapter is None and "/" not in model):
            raise
        named = "model" if adapter is None else "model+adapter"
        instead = "" if adapter is None else " as the model, and no adapter,"
        raise InvalidRequestError(
            f"{error}. Where only the workers have it, give{instead} the name that they log when "
            f"they start, such as {named}@0123456789ab"
        ) from error


def _is_folder(path: str | Path) -> bool:
    try:
        return Path(path).expanduser().is_dir()
    except (OSError, RuntimeError):  # too long, the home of no user
        return False


def revision_of(name: str) -> str | None:
    """Return the revision that this machine has of what an identity's name stands for."""
    try:
        if name in ALIASES:
            return metadata.version(ALIASES[name][0])
        from huggingface_hub.constants import HF_HUB_CACHE

        main = Path(HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "refs", "main")
        return main.read_text().strip() or None
    except (ImportError, OSError, ValueError):  # no package, no hub's client, not in its cache
        return None


def _files_of(folder: Path) -> list[Path]:
    try:
        files = sorted(f for f in folder.iterdir() if _OF_MODEL.fullmatch(f.name) and f.is_file())
    except OSError as error:
        raise ModelLoadError(f"{folder} can't be read: {error}") from error
    if not files:
        raise ModelLoadError(f"the folder {folder} holds no model: no configuration, no weights")
    return files


def _with_digest(path: Path, files: list[Path]) -> str:
    try:
        return f"{path.absolute().name}@{_digest(path, files)}"
    except OSError as error:
        raise ModelLoadError(f"{path} can't be read: {error}") from error


def _digest(path: Path, files: list[Path]) -> str:
    """Return a hash of configuration, tokenizer, and the weights' names, sizes and samples.

    Fine-tuned weights have the names and sizes of those that they began as.
    """
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name if file != path else ''}\0{size}\0".encode(errors="replace"))
        with file.open("rb") as content:
            if size <= _WHOLE:
                digest.update(content.read())
                continue
            for sample in range(_SAMPLES):
                content.seek((size - _SAMPLE) * sample // (_SAMPLES - 1))
                digest.update(content.read(_SAMPLE))
    return digest.hexdigest()[:12]
