"""`Adapter`: a folder with what fine-tuning has learned beside a model. Needs no MLX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from vllm_mlx.errors import ModelLoadError
from vllm_mlx.parameters import describe

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
PEFT_WEIGHTS = "adapter_model.safetensors"
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
        """Look at a folder; its weights are not read.

        Raises:
            ModelLoadError: it is no adapter of mlx-lm's; the message says why, and what one is.
        """
        try:
            folder = Path(path).expanduser()
            if (folder / PEFT_WEIGHTS).exists():
                raise ValueError(_PEFT)
            config = AdapterConfig.model_validate_json((folder / CONFIG).read_bytes())
            if not (folder / WEIGHTS).is_file():
                raise ValueError(f"it holds no {WEIGHTS}")
        except ValidationError as error:
            reason = describe(error, tuple(AdapterConfig.model_fields))
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


def _refusal(path: str | Path, reason: str) -> str:
    return (
        f"{str(path)!r} is no adapter: {reason}. Give a folder that mlx_lm.lora has written, with "
        f"{CONFIG} and {WEIGHTS}"
    )
