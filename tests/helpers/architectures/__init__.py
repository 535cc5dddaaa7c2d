"""Configs of tiny models of mlx-lm's architectures, by what their layers remember."""

from __future__ import annotations

from tests.helpers.architectures.base import BASE, VOCAB, Config
from tests.helpers.architectures.latents import LATENTS
from tests.helpers.architectures.plain import PLAIN
from tests.helpers.architectures.states import STATES
from tests.helpers.architectures.windows import WINDOWS

__all__ = ["ARCHITECTURES", "KINDS", "VOCAB", "config_of"]

ARCHITECTURES: dict[str, Config] = PLAIN | LATENTS | WINDOWS | STATES
KINDS = {
    "keys and values": "llama",
    "windows": "gemma3_text",
    "states": "qwen3_5",
    "states that read padding": "mamba",
    "windows and states": "baichuan_m1",
}
"""An architecture of each way to remember."""


def config_of(name: str) -> Config:
    return {"model_type": name, **BASE, **ARCHITECTURES[name]}
