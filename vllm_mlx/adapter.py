"""`Adapter`: a folder with what fine-tuning has learned beside a model. Needs no MLX."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from vllm_mlx.errors import ModelLoadError
from vllm_mlx.model_files import ALIASES
from vllm_mlx.parameters import describe

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
PEFT_WEIGHTS = "adapter_model.safetensors"
_LARGEST_HEADER = 100_000_000  # bytes; safetensors itself reads no larger one
# What those who convert a model put behind its name.
_CONVERTED = re.compile(
    r"([-._](mlx|gguf|dwq|awq|gptq|mxfp4|nvfp4|fp8|bf16|fp16|f16|int[48]|[2-8]bit|q[2-8](_\w+)*))+$"
)
_PEFT = (
    "it is PEFT's, which mlx-lm does not read; merge it with PEFT's merge_and_unload(), and give "
    "what this saves as the model"
)


class LoRAParameters(BaseModel, frozen=True, strict=True):
    """What mlx-lm makes the layers of an adapter of."""

    rank: int = Field(ge=1)
    scale: float = Field(allow_inf_nan=False)
    dropout: float = Field(ge=0, lt=1)
    keys: Sequence[str] | None = None


class AdapterConfig(BaseModel, frozen=True, strict=True):
    """What is used of `adapter_config.json`, which has all settings of a training.

    Attributes:
        model: what it was trained on, as its trainer named it.
    """

    fine_tune_type: Literal["lora", "dora", "full"] = "lora"
    num_layers: int | None = None
    lora_parameters: LoRAParameters | None = None
    model: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.fine_tune_type != "full" and None in (self.num_layers, self.lora_parameters):
            raise ValueError("num_layers and lora_parameters should both be given")
        return self


class Adapter(NamedTuple):
    """An adapter as mlx-lm's trainer writes it."""

    folder: Path
    config: AdapterConfig

    @classmethod
    def of(cls, path: str | Path) -> Adapter:
        """Look at a folder; of its weights only the header is read.

        Raises:
            ModelLoadError: it is no adapter of mlx-lm's, or a damaged one; the message says why,
                and what one is.
        """
        try:
            folder = Path(path).expanduser()
            if (folder / PEFT_WEIGHTS).exists():
                raise ValueError(_PEFT)
            if not folder.is_dir():
                raise ValueError("there is no such folder")
            for name in (CONFIG, WEIGHTS):
                if not (folder / name).is_file():
                    raise ValueError(f"it holds no {name}")
            config = AdapterConfig.model_validate_json((folder / CONFIG).read_bytes())
            _check_whole(folder / WEIGHTS)
        except ValidationError as error:
            reason = describe(error, AdapterConfig)
            raise ModelLoadError(_refusal(path, f"{CONFIG}: {reason}")) from error
        except (OSError, RuntimeError, ValueError) as error:  # or the home of no user, a NUL
            raise ModelLoadError(_refusal(path, str(error))) from error
        return cls(folder, config)

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def files(self) -> list[Path]:
        """What it consists of; checkpoints of the training beside it are no part of it."""
        return [self.folder / CONFIG, self.weights]

    def doubt(self, model: str | Path) -> str | None:
        """Return what is to be told if it was trained on a model of another name; else None.

        What of its shape differs is found when it is loaded; nothing else tells the two apart.
        """
        trained_on = self.config.model
        if trained_on is None or _is_same(trained_on, str(model)):
            return None
        return (
            f"the adapter {str(self.folder)!r} was trained on {trained_on}, as its {CONFIG} says, "
            f"and is put into {model}: if that is not the same model, its answers are worth nothing"
        )


def _is_same(trained_on: str, model: str) -> bool:
    """Whether two names are of one model, quantized or not, wherever its folder lies."""
    if model in ALIASES:
        model = ALIASES[model][1].removesuffix(".gguf") if trained_on != model else model
    return _bare(trained_on) == _bare(model)


def _bare(name: str) -> str:
    """Return a name without its owner or folder, and without what only tells of its numbers."""
    in_cache = re.search(r"models--(?:.+?--)?([^/]+)/snapshots/", name)
    last = in_cache[1] if in_cache else Path(name).name
    return _CONVERTED.sub("", last.casefold().removesuffix(".gguf"))


def _check_whole(weights: Path) -> None:
    """Compare the length of a safetensors file with what its header says.

    Raises:
        ValueError: it is damaged, or none.
    """
    size = weights.stat().st_size
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            if length > min(size - 8, _LARGEST_HEADER):
                raise ValueError
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__"]
            whole = 8 + length + max(ends)
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
            raise ValueError(_damaged("its header is not whole")) from None
    if whole != size:
        raise ValueError(_damaged(f"it has {size} bytes, and should have {whole}"))


def _damaged(reason: str) -> str:
    return f"{WEIGHTS} is damaged: {reason}; copy it again"


def _refusal(path: str | Path, reason: str) -> str:
    return (
        f"{str(path)!r} is no adapter: {reason}. Give a folder that mlx_lm.lora has written, with "
        f"{CONFIG} and {WEIGHTS}"
    )
