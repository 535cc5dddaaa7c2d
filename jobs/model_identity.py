"""`ModelIdentity`: which model a run is made with, wherever its files lie."""

from __future__ import annotations

import hashlib
import re
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from vllm_mlx.errors import ModelLoadError
from vllm_mlx.model_files import ALIASES, local_path

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
            `tiny@3fa2b1c9d0e1`. Queues are named after it, and each row has it.
        revision: the hub's commit, or the version of the alias's package; None if this machine
            does not have the model, or if the name holds a hash.
    """

    name: str
    revision: str | None = None


def identify(model: str) -> ModelIdentity:
    """Return the identity of what `--model` names on this machine.

    A name with its hash, from another machine, is an identity already.

    Raises:
        ModelLoadError: there is no such folder or file here, or it can't be read.
    """
    path = None if model in ALIASES else local_path(model)
    if path is None:
        return ModelIdentity(model, revision_of(model))
    try:
        return ModelIdentity(f"{path.absolute().name}@{_digest(path)}")
    except OSError as error:
        raise ModelLoadError(f"{path} can't be read: {error}") from error


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


def _digest(path: Path) -> str:
    """Return a hash of configuration, tokenizer, and the weights' names, sizes and samples.

    Fine-tuned weights have the names and sizes of those that they began as.
    """
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if _OF_MODEL.fullmatch(f.name) and f.is_file())
        if not files:
            raise ModelLoadError(f"the folder {path} holds no model: no configuration, no weights")
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
